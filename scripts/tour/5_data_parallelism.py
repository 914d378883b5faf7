# %% [markdown]
# # 5. Data parallelism
#
# To use a GPU, move the model there with `model.to(device)`, and each batch with `batch = batch.to(device)`. (A module
# moves in place; a tensor stays, and you get a copy.) To use several, wrap the model: `model = nn.DataParallel(model)`.
# For every batch it copies the model to each device, sends each a slice, and joins what comes back.
#
# This lesson watches it do so. Where GPUs are too few, the template's `VirtualDataParallel` stands in: the same slices,
# through replicas on the CPU.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from blitz.device.dp import VirtualDataParallel

torch.manual_seed(0)

input_size, output_size = 5, 2
batch_size, data_size = 30, 100

# %% [markdown]
# ## A random data set
#
# Anything with a length and an item for each index is a data set. A hundred samples in batches of 30 make three full
# batches and one of 10.


# %%
class RandomDataset(Dataset):
    def __init__(self, size, length):
        self.data = torch.randn(length, size)

    def __getitem__(self, index):
        return self.data[index]

    def __len__(self):
        return len(self.data)


loader = DataLoader(RandomDataset(input_size, data_size), batch_size=batch_size, shuffle=True)

# %% [markdown]
# ## A talkative model
#
# One linear layer that tells what it sees.


# %%
class Model(nn.Module):
    def __init__(self, input_size, output_size):
        super().__init__()
        self.fc = nn.Linear(input_size, output_size)

    def forward(self, input):
        output = self.fc(input)
        print(f"\tIn Model: input size {input.size()} output size {output.size()}")
        return output


# %% [markdown]
# ## Over 1, 2, 3 and 8 devices
#
# Inside, the model sees its slice; outside, nobody notices. The slices are equal, their size rounded up, so that the
# last may be smaller and some devices go without: 30 over 8 is seven times 4 and once 2; 10 over 8 is five times 2, and
# three devices are idle. (Real GPUs work at the same time, so their lines come in any order.)


# %%
def parallelize(model, devices):
    if devices == 1:
        return model
    if torch.cuda.device_count() >= devices:
        print(f"Let's use {devices} GPUs!")
        return nn.DataParallel(model, device_ids=list(range(devices)))
    print(f"Let's use {devices} replicas on the CPU!")
    return VirtualDataParallel(model, devices)


def run(devices):
    device = torch.device("cuda:0" if torch.cuda.device_count() >= devices else "cpu")
    model = parallelize(Model(input_size, output_size), devices).to(device)
    for batch in loader:
        input = batch.to(device)
        output = model(input)
        print(f"Outside: input size {input.size()} output_size {output.size()}")


run(1)

# %%
run(2)

# %%
run(3)

# %%
run(8)

# %% [markdown]
# Slicing changes where the work is done, not its result: each sample gives what it would in the whole batch.

# %%
model = Model(input_size, output_size)
batch = next(iter(loader))

print("The whole batch, then three slices of it:")
whole = model(batch)
joined = VirtualDataParallel(model, 3)(batch)
print("The same output:", torch.allclose(whole, joined))

# %% [markdown]
# `DataParallel` is the least to write: one process, one line. For speed, one process a device does better
# (`DistributedDataParallel`). The template has both, as `device=dp` and `device=ddp`, and its models know of neither.
