# %% [markdown]
# # 5. Data parallelism
#
# To use a GPU, move the model with `model.to(device)` and each batch with `batch = batch.to(device)`. (`to` moves a
# module in place, but returns a copy of a tensor.) To use several GPUs, wrap the model: `model =
# nn.DataParallel(model)`. For every batch it copies the model to each device, sends each device a slice, and
# concatenates the outputs.
#
# This lesson shows these slices. If there are too few GPUs, the template's `VirtualDataParallel` replaces
# `nn.DataParallel`: it sends the same slices through replicas on the CPU.

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
# A data set is any object with a length and an item for each index. A hundred samples in batches of 30 make three full
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
# ## The model
#
# It is one linear layer that prints the sizes of its input and output.


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
# ## On 1, 2, 3 and 8 devices
#
# Inside, the model sees a slice. Outside, there is only the whole batch. The size of a slice is rounded up, so the last
# slice may be smaller, and some devices may get none. For example, 30 samples on 8 devices make seven slices of 4 and
# one of 2. For 10 samples on 8 devices there are five slices of 2, and three devices are idle. (GPUs work at the same
# time, so they print their lines in any order.)


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
# Slicing changes where the work is done, not the result: each sample gives the same output as in the whole batch.

# %%
model = Model(input_size, output_size)
batch = next(iter(loader))

print("The whole batch, then three slices of it:")
expected = model(batch)
joined = VirtualDataParallel(model, 3)(batch)
print("The same output:", torch.allclose(expected, joined))

# %% [markdown]
# `DataParallel` is the simplest way: one process, one line. `DistributedDataParallel`, with one process per device, is
# faster. The template has both, as `device=dp` and `device=ddp`, and its models need no change for either.
