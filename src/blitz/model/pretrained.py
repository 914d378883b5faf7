"""Networks of timm and torchvision by name, with random weights, pretrained weights, or the weights of a file.

Pretrained weights never change the architecture. Loading a checkpoint builds the network without them, because the
checkpoint holds all weights: see ``blitz.config.instantiate.without_pretrained_weights``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from blitz.config.checks import did_you_mean
from blitz.errors import UserError

Weights = dict[str, Tensor]
PREFIXES = ("", "module.", "model.", "net.")  # added to names by DataParallel, other trainers and blitz
CONTAINERS = ("state_dict", "model")  # keys of the weights in checkpoints of trainers
RGB = 3
SHOWN = 200  # characters of a library's message
INSTALL = "install it with: python -m uv pip install -e '.[timm]'"


def torchvision_model(
    name: str, num_classes: int, in_channels: int = RGB, pretrained: bool | str | Path | None = False, **options: Any
) -> nn.Module:
    """Return a classification network of torchvision, for images ``(n, in_channels, height, width)``.

    torchvision builds it for three channels. For another number, ``adapt_channels`` changes its first convolution.

    Args:
        name: one of ``torchvision.models.list_models(module=torchvision.models)``.
        num_classes: number of logits.
        pretrained: True downloads the library's default weights; a path reads them from a file: see ``read_weights``
            and ``load_weights``. False and None leave the weights random.
        options: further arguments of the network.

    Raises:
        UserError: there is no such network, or its weights cannot be read or do not fit.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    _check_name(name, name in names, names, "torchvision.models.list_models()")
    _check_channels(in_channels)

    def build(num_classes: int) -> nn.Module:
        net: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
        if in_channels != RGB:
            _change_channels(net, in_channels)
        return net

    def download() -> nn.Module:
        return torchvision.models.get_model(name, weights="DEFAULT", progress=False, **options)

    return _with_weights(build, download, num_classes, pretrained, f"{name} of torchvision")


def timm_model(
    name: str, num_classes: int, in_channels: int = RGB, pretrained: bool | str | Path | None = False, **options: Any
) -> nn.Module:
    """Return a network of timm, for images ``(n, in_channels, height, width)``.

    Args:
        name: one of ``timm.list_models()``. It may end with the tag of the weights: ``resnet18.a1_in1k``.
        num_classes: number of logits.
        pretrained: True downloads the library's default weights; a path reads them from a file: see ``read_weights``
            and ``load_weights``. False and None leave the weights random.
        options: further arguments of ``timm.create_model``, such as ``drop_rate`` and ``img_size``.

    Raises:
        UserError: timm is not installed, there is no such network, or its weights cannot be read or do not fit.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError(f"model=timm: its package is not installed; {INSTALL}") from error
    _check_name(name, timm.is_model(name), timm.list_models(), "timm.list_models()")
    _check_channels(in_channels)

    def build(num_classes: int) -> nn.Module:
        return timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)

    def download() -> nn.Module:
        return timm.create_model(name, pretrained=True, **options)

    return _with_weights(build, download, num_classes, pretrained, f"{name} of timm")


def _with_weights(
    build: Callable[[int], nn.Module],
    download: Callable[[], nn.Module],
    num_classes: int,
    pretrained: bool | str | Path | None,
    described: str,
) -> nn.Module:
    """Return ``build(num_classes)`` with its weights. The random state afterwards does not depend on ``pretrained``."""
    if not isinstance(pretrained, bool | str | Path | None):
        raise UserError(
            f"model.pretrained={pretrained}: not a valid value; expected true, false, or a file with the weights"
        )
    net = build(num_classes)
    if pretrained is None or pretrained is False:
        return net
    key = f"model.pretrained={'true' if pretrained is True else pretrained}"
    with torch.random.fork_rng(devices=[]):
        weights = _downloaded(download, key, described) if pretrained is True else read_weights(pretrained, key)
        if misfits := load_weights(net, weights):
            head = head_entries(net, build(num_classes + 1))
            _check_misfits({name: reason for name, reason in misfits.items() if name not in head}, head, key, described)
    return net


def _check_misfits(misfits: Mapping[str, str], head: Sequence[str], key: str, described: str) -> None:
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in head))
        raise UserError(
            f"{key}: not the weights of {described} ({next(iter(misfits.values()))}{more}); "
            f"expected weights of which only the head may differ ({layers})"
        )


def _downloaded(download: Callable[[], nn.Module], key: str, described: str) -> Weights:
    """Return the weights of ``download()``."""
    try:
        return download().state_dict()
    except Exception as error:  # the libraries raise many kinds: no network, no such weights, a damaged file
        reason = " ".join(str(error).split())[:SHOWN]
        raise UserError(
            f"{key}: the weights of {described} cannot be downloaded ({type(error).__name__}: {reason}); "
            "expected a file with the weights, pretrained=false, or a network connection"
        ) from error


def read_weights(path: str | Path, key: str = "pretrained") -> Weights:
    """Return the tensors of a file by name: a state dict, or a checkpoint of a trainer that holds one.

    Files whose name ends with ``.safetensors`` need the package safetensors. ``torch.load`` reads all others, and
    accepts only tensors and plain containers.

    Args:
        key: the setting that names the file, for error messages.

    Raises:
        UserError: there is no such file, or it holds no weights.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{key}: no such file; expected a file with the weights, true, or false")
    try:
        content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: the package safetensors is not installed; {INSTALL}") from error
    except Exception as error:
        raise UserError(
            f"{key}: not a file of weights, or a damaged one ({type(error).__name__}); expected a state dict"
        ) from error
    for container in CONTAINERS if isinstance(content, Mapping) else ():
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    weights = content.items() if isinstance(content, Mapping) else ()
    found = {str(name): value for name, value in weights if isinstance(value, Tensor)}
    if not found:
        raise UserError(f"{key}: it holds no tensors by name; expected a state dict")
    return found


def _read_safetensors(file: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(file)


def _read_pickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def head_entries(net: nn.Module, other: nn.Module) -> list[str]:
    """Return the entries of the head: those whose shapes differ in a network with another number of classes."""
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    return [name for name, value in net.state_dict().items() if value.shape != shapes[name]]


def load_weights(net: nn.Module, weights: Weights) -> dict[str, str]:
    """Load the weights that fit a network. For each entry that does not fit, return the reason by name.

    Entries of the network that are absent from the weights or have another shape keep their values. A common prefix of
    the names, such as ``module.``, is dropped. If only the weights are for images with three channels,
    ``adapt_channels`` changes those of the first convolution.
    """
    own = net.state_dict()
    weights = _for_channels_of(net, _without_prefix(weights, own))
    shapes = {name: "x".join(map(str, value.shape)) for name, value in own.items()}
    misfits = {
        name: f"{name} is {'x'.join(map(str, value.shape))} instead of {shapes[name]}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    }
    fitting = {name: value for name, value in weights.items() if name not in misfits}
    result = net.load_state_dict(fitting, strict=False)  # accepts files from before batch norm counted its batches
    missing = {name: f"{name} is missing" for name in result.missing_keys}
    return missing | misfits | {name: f"{name} is unexpected" for name in result.unexpected_keys}


def _without_prefix(weights: Weights, own: Weights) -> Weights:
    """Drop the prefix under which most ``own`` entries of the network are found, and all entries without it."""
    prefix = max(PREFIXES, key=lambda prefix: sum(prefix + name in weights for name in own))
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _for_channels_of(net: nn.Module, weights: Weights) -> Weights:
    """Adapt the first convolution's weights from three channels to the network's number of channels."""
    name = f"{_first_convolution(net)}.weight"
    if name not in weights:
        return weights
    given, needed = weights[name].shape, net.state_dict()[name].shape
    if given[1:2] != (RGB,) or needed[:1] + needed[2:] != given[:1] + given[2:]:
        return weights
    return weights | {name: adapt_channels(weights[name], needed[1])}


def _change_channels(net: nn.Module, channels: int) -> None:
    """Make the first convolution of a network take another number of channels."""
    first = net.get_submodule(_first_convolution(net))
    assert isinstance(first, nn.Conv2d)
    first.weight = nn.Parameter(adapt_channels(first.weight.detach(), channels))
    first.in_channels = channels


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight ``(out, in, h, w)`` for another number of input channels, as timm does.

    For one channel, the weights are summed over the channels: a greyscale image then gives the same output as the
    image with three copies of it. For more, the channels are repeated and scaled to keep the sum about the same.
    """
    given = weight.shape[1]
    if channels == given:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // given), 1, 1)[:, :channels]
    return repeated * (given / channels)


def _first_convolution(net: nn.Module) -> str:
    """Return the name of the first convolution, or an empty string if there is none."""
    return next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), "")


def _check_name(name: str, exists: bool, names: Sequence[str], listed_by: str) -> None:
    if not exists:
        raise UserError(
            f"model.name={name}: no such network; {did_you_mean(name, names) or f'expected one of {listed_by}'}"
        )


def _check_channels(in_channels: Any) -> None:
    if isinstance(in_channels, bool) or not isinstance(in_channels, int) or in_channels < 1:
        raise UserError(f"model.in_channels={in_channels}: not a valid number; expected a whole number >= 1")
