# %% [markdown]
# # 1. Tensors
#
# PyTorch is two things at once: NumPy's arrays with the power of an accelerator behind them, and a library for
# building and training neural networks. Both begin with the **tensor**, an array of numbers with a shape, a dtype and
# a device. If the next cell prints fifteen numbers between 0 and 1, PyTorch is installed and works.

# %%
import numpy as np
import torch

torch.manual_seed(0)  # the same "random" numbers on every run

x = torch.rand(5, 3)
print(x)
print("CUDA is available:", torch.cuda.is_available())
print("MPS is available:", torch.backends.mps.is_available())

# %% [markdown]
# ## Making tensors
#
# `empty` takes memory as it finds it, so its values mean nothing until you write them. The others say what they hold.

# %%
print("empty:", torch.empty(5, 3))
print("rand:", torch.rand(5, 3))
print("zeros:", torch.zeros(5, 3, dtype=torch.long))

pair = torch.tensor([5.5, 3])
print("tensor:", pair)

# %% [markdown]
# A tensor can also be made in the image of another. `new_ones` keeps the dtype and the device, `randn_like` the shape
# as well, except for what you ask to be different.

# %%
ones = pair.new_ones(5, 3, dtype=torch.double)
print("new_ones:", ones)

x = torch.randn_like(ones, dtype=torch.float)
print("randn_like:", x)

# %% [markdown]
# `size()` (or `shape`) is a tuple, and unpacks like one.

# %%
print(x.size())
rows, columns = x.size()
print(rows, "rows,", columns, "columns")

# %% [markdown]
# ## Four ways to add
#
# Many operations come in all four forms. The last one changes `x` itself: **a trailing underscore means in place**,
# here as in `x.copy_(y)` or `x.t_()`.

# %%
y = torch.rand(5, 3)
by_operator = x + y
by_function = torch.add(x, y)
into_out = torch.empty(5, 3)
torch.add(x, y, out=into_out)
x.add_(y)

print("x + y =", by_operator)
print("torch.add(x, y) =", by_function)
print("out =", into_out)
print("x =", x)

# %% [markdown]
# ## Indexing and reshaping
#
# Indexing works as in NumPy; this is the first column.

# %%
print(x[:, 0])

# %% [markdown]
# `view` shows the same memory in another shape. At most one size may be -1: it is worked out from the others.

# %%
square = torch.randn(4, 4)
flat = square.view(16)
wide = square.view(-1, 8)
print(square.size(), flat.size(), wide.size())

# %% [markdown]
# `item` takes the number out of a tensor that holds just one.

# %%
single = torch.randn(1)
print(single)
print(single.item())

# %% [markdown]
# ## To NumPy and back
#
# On the CPU a tensor and its array share their memory, in both directions. Nothing is copied: change one and the other
# changes with it. (A dtype that NumPy lacks, such as `bfloat16`, has to be converted first.)

# %%
tensor = torch.ones(5)
array = tensor.numpy()
tensor.add_(1)
print(tensor)
print(array)

# %%
array = np.ones(5)
tensor = torch.from_numpy(array)
np.add(array, 1, out=array)
print(array)
print(tensor)

# %% [markdown]
# ## Across devices and dtypes
#
# `to` moves a tensor to a device, to a dtype, or to both at once. It returns the moved tensor and leaves the original
# where it was. Tensors that meet in an operation must live on the same device.

# %%
device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
made_there = torch.ones_like(single, device=device)
moved_there = single.to(device)
total = moved_there + made_there
print(total)
print(total.to("cpu", torch.double))

# %% [markdown]
# **In the template** `device=gpu` or `device=mps` (`configs/device/`) moves all there is to move, and pictures become
# tensors in `src/blitz/data/_transforms.py`.
