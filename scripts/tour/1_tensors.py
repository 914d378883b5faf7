# %% [markdown]
# # 1. Tensors
#
# PyTorch is two things: NumPy-like arrays that can use an accelerator, and a library for building and training neural
# networks. Both are built on the **tensor**, an array of numbers with a shape, a dtype and a device. If the next cell
# prints fifteen numbers between 0 and 1, PyTorch is installed and works.

# %%
import numpy as np
import torch

torch.manual_seed(0)  # the same "random" numbers on every run

x = torch.rand(5, 3)
print(x)
print("CUDA is available:", torch.cuda.is_available())
print("MPS is available:", torch.backends.mps.is_available())

# %% [markdown]
# ## Creating tensors
#
# `empty` allocates memory without initializing it, so its values are arbitrary until you write them. The names of the
# other functions are named for the values that they fill in.

# %%
print("empty:", torch.empty(5, 3))
print("rand:", torch.rand(5, 3))
print("zeros:", torch.zeros(5, 3, dtype=torch.long))

pair = torch.tensor([5.5, 3])
print("tensor:", pair)

# %% [markdown]
# A tensor can also be created from another one. `new_ones` keeps the dtype and the device, and `randn_like` keeps the
# shape as well. Arguments override any of them.

# %%
ones = pair.new_ones(5, 3, dtype=torch.double)
print("new_ones:", ones)

x = torch.randn_like(ones, dtype=torch.float)
print("randn_like:", x)

# %% [markdown]
# `size()` (or `shape`) returns a tuple, which can be unpacked.

# %%
print(x.size())
rows, columns = x.size()
print(rows, "rows,", columns, "columns")

# %% [markdown]
# ## Four ways to add
#
# Many operations exist in all four forms. The last one changes `x` itself: **a trailing underscore means in place**, as
# in `x.copy_(y)` or `x.t_()`.

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
# Indexing works as in NumPy. This is the first column:

# %%
print(x[:, 0])

# %% [markdown]
# `view` returns a tensor of another shape on the same memory. One size may be -1: it is inferred from the others.

# %%
square = torch.randn(4, 4)
flat = square.view(16)
wide = square.view(-1, 8)
print(square.size(), flat.size(), wide.size())

# %% [markdown]
# `item` returns the value of a tensor with a single element as a Python number.

# %%
single = torch.randn(1)
print(single)
print(single.item())

# %% [markdown]
# ## Converting to and from NumPy
#
# On the CPU, a tensor and its NumPy array share memory, in both directions. Nothing is copied: if you change one, the
# other changes too. (A dtype that NumPy lacks, such as `bfloat16`, must be converted first.)

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
# ## Devices and dtypes
#
# `to` converts a tensor to another device, another dtype, or both. It returns a new tensor and leaves the original
# unchanged. All tensors of an operation must be on the same device.

# %%
device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
ones_on_device = torch.ones_like(single, device=device)
moved = single.to(device)
total = moved + ones_on_device
print(total)
print(total.to("cpu", torch.double))

# %% [markdown]
# **In the template**, `device=gpu` or `device=mps` (`configs/device/`) moves the network and the data, and
# `src/blitz/data/transforms.py` converts images to tensors.
