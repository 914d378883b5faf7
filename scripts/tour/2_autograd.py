# %% [markdown]
# # 2. Autograd
#
# A network learns by following gradients, and PyTorch computes them for you. While your code runs, autograd records
# every operation on the tensors that require gradients. `backward` then follows this record, the graph, in reverse. The
# graph is built again on every run, so loops, branches and recursion need no special syntax: autograd differentiates
# the operations that actually ran.

# %%
import torch

torch.manual_seed(0)
torch.set_printoptions(sci_mode=False)

x = torch.ones(2, 2, requires_grad=True)
print(x)

# %% [markdown]
# The result of an operation refers, in `grad_fn`, to the function that created it. A tensor that you created has none.

# %%
y = x + 2
print(y)
print(y.grad_fn)
print(x.grad_fn)

# %%
z = y * y * 3
out = z.mean()
print("z =", z)
print("out =", out)

# %% [markdown]
# Tensors are not tracked by default. Set `requires_grad` when you create a tensor, or later, in place.

# %%
a = torch.randn(2, 2)
a = (a * 3) / (a - 1)
print(a.requires_grad)
a.requires_grad_(True)
print(a.requires_grad)
b = (a * a).sum()
print(b.grad_fn)

# %% [markdown]
# ## Gradients
#
# `out` is a scalar, so `out.backward()` needs no argument: it means `out.backward(torch.tensor(1.0))`. By hand:
#
# $$o = \tfrac14 \sum_i z_i, \quad z_i = 3\,(x_i + 2)^2
# \quad\Rightarrow\quad \frac{\partial o}{\partial x_i} = \tfrac32\,(x_i + 2) = 4.5 \quad\text{at } x_i = 1.$$

# %%
out.backward()
print(x.grad)

# %% [markdown]
# ## The vector-Jacobian product
#
# The derivative of a vector $y = f(x)$ is a matrix, the Jacobian $J_{ij} = \partial y_i / \partial x_j$. `backward`
# does not build it. It computes $v^\top J$ for a vector $v$ of your choice. The chain rule needs no more than that: if
# $v$ is the gradient of a loss with respect to $y$, then $v^\top J$ is its gradient with respect to $x$.
#
# Here $y$ is doubled until its norm exceeds 1000. The number of doublings depends on the random $x$, and autograd
# records each of them.

# %%
x = torch.randn(3, requires_grad=True)

y = x * 2
doublings = 1
while y.detach().norm() < 1000:
    y = y * 2
    doublings += 1
print(y)

# %%
v = torch.tensor([0.1, 1.0, 0.0001])
y.backward(v)
print(x.grad)

# %% [markdown]
# Every doubling multiplies the derivative by 2, so $J = 2^n I$, and the gradient must be $2^n v$.

# %%
print(f"2^{doublings} v =", 2**doublings * v)

# %% [markdown]
# ## Disabling gradients
#
# Evaluation needs no gradients. Inside `torch.no_grad()` nothing is recorded, which saves the memory of the graph.

# %%
print(x.requires_grad)
print((x**2).requires_grad)
with torch.no_grad():
    print((x**2).requires_grad)

# %% [markdown]
# `detach` does the same for a single tensor. It returns the same values, in the same memory, without the graph.

# %%
y = x.detach()
print(y.requires_grad)
print(x.eq(y).all())

# %% [markdown]
# **In the template**, no code calls `backward`: a training step returns its loss (`src/blitz/task/classify.py`), and
# Lightning does the rest. It records nothing during validation and test.
