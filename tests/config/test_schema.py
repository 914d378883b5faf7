"""The typed top level refuses wrong types and unknown keys when the config is composed."""

import dataclasses

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from blitz.config.paths import CONFIGS
from blitz.config.schema import SCHEMAS
from tests.test_configs import compose


@pytest.mark.parametrize("override", ["seed=x", "seed=1.5", "compile=maybe", "threads=many", "optimizr=1"])
def test_wrong_top_level_is_refused(override):
    with pytest.raises((HydraException, OmegaConfBaseException)):
        compose(override)


@pytest.mark.parametrize("override", ["seed=null", "seed=3", "compile=true", "threads=2", "resume=null"])
def test_right_top_level_is_accepted(override):
    compose(override)


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items())
def test_schema_has_the_keys_of_its_file(name, schema):
    cfg = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    groups = {key.partition("/")[0] for entry in cfg.pop("defaults") if isinstance(entry, dict) for key in entry}
    keys = (set(cfg) | groups) - {"hydra", "experiment", "debug", "sweep"}
    keys = {key for key in keys if not key.startswith("override ")}
    assert keys == {field.name for field in dataclasses.fields(schema)}
