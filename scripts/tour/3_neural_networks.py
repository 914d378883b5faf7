# %% [markdown]
# # 3. Neural networks
#
# A network is an `nn.Module`: layers, and a `forward` method that sends an input through them. Autograd provides
# `backward`. Training is a loop: compute the output, compute the loss, compute the gradients, update the weights a
# little, and repeat.
#
# Our network is a small LeNet that classifies handwritten characters. The template trains the same network.

# %%
import copy
import inspect
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from blitz.model.net import Net

if "get_ipython" not in globals():
    plt.switch_backend("Agg")  # a script draws to files only
torch.set_num_threads(1)  # one small image is too little work for several threads

torch.manual_seed(0)

print(textwrap.dedent(inspect.getsource(Net.forward)))

# %%
net = Net(in_channels=1)
print(net)

# %% [markdown]
# `parameters()` returns the values that training changes: a weight and a bias for each of the five layers.

# %%
params = list(net.parameters())
print("Number of parameters:", len(params))
print("conv1's weight:", params[0].size())

# %% [markdown]
# ## Forward and backward
#
# Layers work on batches: samples x channels x height x width. `unsqueeze(0)` turns a single image into a batch of one.

# %%
image = torch.randn(1, 32, 32)
input = image.unsqueeze(0)
print(input.size())

out = net(input)
print(out)

# %% [markdown]
# `out` is not a scalar, so `backward` needs the vector of lesson 2. A random one is enough here. Gradients
# **accumulate** until they are cleared, so call `zero_grad` before each `backward`.

# %%
net.zero_grad()
out.backward(torch.randn(1, 10))

# %% [markdown]
# ## The loss
#
# A loss takes the output and the target and returns one number: how far apart they are. `nn.MSELoss` is the mean of the
# squared differences. The target here is random.

# %%
output = net(input)
target = torch.randn(10).view(1, -1)  # the shape of the output
criterion = nn.MSELoss()

loss = criterion(output, target)
print(loss)

# %% [markdown]
# The loss refers to the whole graph that computed it. In `next_functions`, each function points to the functions that
# created its inputs. For a linear layer these are its bias (where a gradient accumulates), its input, and its weight
# (transposed).

# %%
print(loss.grad_fn)
last_layer = loss.grad_fn.next_functions[0][0]
print(last_layer)
for function, _ in last_layer.next_functions:
    print("   ", function)

# %% [markdown]
# Without the weights and biases, one path leads from the loss back to the input: the network in reverse.

# %%
chain = []
node = loss.grad_fn
while node is not None:
    chain.append(node.name())
    inputs = [function for function, _ in node.next_functions if function is not None]
    node = next((i for i in inputs if not i.name().endswith(("AccumulateGrad", "TBackward0"))), None)
print("\n-> ".join(chain))

# %% [markdown]
# ## Backpropagation
#
# One call follows that path and stores the gradient of every parameter in its `grad`. Before the call it is None.

# %%
net.zero_grad()
print("conv1.bias.grad before backward")
print(net.conv1.bias.grad)

loss.backward()

print("conv1.bias.grad after backward")
print(net.conv1.bias.grad)

# %% [markdown]
# ## Updating the weights
#
# Stochastic gradient descent is one line, `weight = weight - learning_rate * gradient`. By hand, on a copy of the net:

# %%
start = copy.deepcopy(net)  # the initial weights of the comparison below
by_hand = copy.deepcopy(net)
with torch.no_grad():
    for weight, trained in zip(by_hand.parameters(), net.parameters(), strict=True):
        weight -= 0.01 * trained.grad

# %% [markdown]
# The same step with `torch.optim`, which has the other update rules too:

# %%
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
optimizer.zero_grad()
loss = criterion(net(input), target)
loss.backward()
optimizer.step()

difference = max((a - b).abs().max().item() for a, b in zip(by_hand.parameters(), net.parameters(), strict=True))
print(f"Largest difference between the two: {difference:.1e}")

# %% [markdown]
# ## Four optimizers, one problem
#
# Each optimizer starts with the same weights, input and target, and takes 100 steps. Plain SGD is slow on a plateau
# that momentum (here in Nesterov's form) crosses fast. Adam and RMSProp divide each weight's gradient by its recent
# magnitude, so their first steps are already large. RMSProp gets close first, but never converges: as the gradients
# shrink, so does the magnitude that they are divided by.

# %%
optimizers = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.01),
    "Nesterov": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, nesterov=True),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.001),
    "RMSProp": lambda params: torch.optim.RMSprop(params, lr=0.001),
}

losses = {}
for name, make_optimizer in optimizers.items():
    net = copy.deepcopy(start)
    optimizer = make_optimizer(net.parameters())
    losses[name] = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = criterion(net(input), target)
        loss.backward()
        optimizer.step()
        losses[name].append(loss.item())
    print(f"{name:>8}: loss {losses[name][0]:.4f} -> {losses[name][-1]:.1e}")

# %%
figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
for name, colour in zip(losses, ["#8d99ae", "#2a6f97", "#2a9d8f", "#e76f51"], strict=True):
    axes.semilogy(losses[name], color=colour, linewidth=2)
    axes.text(100, losses[name][-1], name, color=colour, verticalalignment="center")
axes.set_title("One network, one target, four optimizers", loc="left", weight="bold")
axes.set(xlabel="step", ylabel="mean squared error", xlim=(0, 99))
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="y", alpha=0.25)

plots = Path("logs/tour")
plots.mkdir(parents=True, exist_ok=True)
figure.savefig(plots / "optimizers.png", dpi=150)

# %% [markdown]
# **In the template**, `model=net` is `src/blitz/model/net.py`, and the loss is part of the task
# (`src/blitz/task/classify.py`). The four optimizers are `optimizer=sgd`, `nesterov`, `adam` and `rmsprop`
# (`configs/optimizer/`).
