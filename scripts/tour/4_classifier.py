# %% [markdown]
# # 4. A classifier
#
# This lesson puts everything together: the input is a photograph, the output is its class. CIFAR-10 has 60,000
# photographs of 32x32 pixels in ten classes. We train a network on it twice: with a loop of our own in plain PyTorch,
# and with the template, where each part is a line of a config. **Both end with the same weights, to the last bit.**

# %%
import sys
from pathlib import Path

import hydra
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.utils import make_grid

from blitz import terminal
from blitz.config.paths import CONFIGS, PROJECT
from blitz.config.schema import register
from blitz.data.seeding import generator
from blitz.training import build

SEED = 0
EPOCHS = 1  # the tutorial trains for 2 epochs
STEPS = 4_500  # per epoch; the tutorial takes all 12_500
DATA = PROJECT / "data"

if "get_ipython" not in globals():
    plt.switch_backend("Agg")  # a script draws to files only
torch.set_num_threads(1)  # four small images per step are too little work for several threads

# %% [markdown]
# ## The data
#
# `ToTensor` converts an image to a tensor of values from 0 to 1, and `Normalize` scales them to [-1, 1]. The data set
# is torchvision's, which is downloaded if necessary, or the same images as files, one directory per class.

# %%
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])

archive, folder = DATA / CIFAR10.filename, DATA / "cifar10-jpeg"
if folder.is_dir() and not archive.exists() and not (DATA / CIFAR10.base_folder).exists():
    choice, root = "image_folder", folder
    trainset, testset = (ImageFolder(folder / split, transform) for split in ("train", "test"))
    testset.samples.sort(key=lambda sample: Path(sample[0]).name)  # so that the classes alternate
else:
    choice, root = "cifar10", DATA
    try:
        trainset, testset = (CIFAR10(DATA, train, transform, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        sys.exit(
            f"CIFAR-10 is not in {DATA} and cannot be downloaded ({error}): put {archive.name} there, "
            f"or its images as {folder.name}/train/<class>/*.jpg and {folder.name}/test/<class>/*.jpg"
        )
print(f"{type(trainset).__name__} in {root}: {len(trainset)} + {len(testset)} images")

# %% [markdown]
# The training images are shuffled, in batches of four. `shuffle=True` would do that too, but both loops need the same
# order. Here it is a function of the seed and the epoch, as in the template.


# %%
def train_loader(epoch):
    order = torch.randperm(len(trainset), generator=generator(SEED, "order", epoch))
    return DataLoader(trainset, batch_size=4, sampler=order[: 4 * STEPS].tolist())


testloader = DataLoader(testset, batch_size=500)


def imshow(images, captions, colours, file):
    figure, axes = plt.subplots(figsize=(8, 2.3), layout="constrained")
    axes.imshow(make_grid(images / 2 + 0.5, pad_value=1).permute(1, 2, 0).numpy())  # back to [0, 1], channels last
    axes.set_xticks([17.5 + 34 * i for i in range(len(images))], captions)  # below the center of each image
    for label, colour in zip(axes.get_xticklabels(), colours, strict=True):
        label.set(color=colour, size=13)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    pictures = Path("logs/tour")
    pictures.mkdir(parents=True, exist_ok=True)
    figure.savefig(pictures / file, dpi=150)


images, labels = next(iter(train_loader(epoch=0)))
names = [CLASSES[label] for label in labels]
print(" ".join(f"{name:>5}" for name in names))
imshow(images, names, ["black"] * 4, "training_images.png")

# %% [markdown]
# **In the template**, this lesson is one recipe, `configs/experiment/cifar10_tutorial.yaml`. The overrides of the
# command line change parts of it. The data set is `data=cifar10` or `data=image_folder`, with `data.mean`, `data.std`
# and `data.batch_size` (`src/blitz/data/`). It reads all images once and keeps them in memory.
#
# Two settings that make the template faster are off here: the channels-last memory format of the images, and the fused
# optimizer, which updates all weights in one kernel. Both give the same results except for rounding.

# %%
overrides = [
    "experiment=cifar10_tutorial",
    f"data={choice}",
    "channels_last=false",
    "optimizer.fused=false",
    "device=cpu",
    "logger=none",
    f"seed={SEED}",
    f"trainer.max_epochs={EPOCHS}",
    f"trainer.limit_train_batches={STEPS}",
    "run_dir=logs/tour/classifier",
]
register()
with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
    cfg = hydra.compose("train", overrides)
cfg.data.root = str(root)
config = build.resolve(cfg)

data = build.data(config)
data.setup("fit")
template_images, template_labels = next(iter(data.train_dataloader()))
print("The same first batch:", torch.equal(images, template_images) and torch.equal(labels, template_labels))

# %% [markdown]
# ## The network
#
# This is the Net of lesson 3, with three input channels for red, green and blue.


# %%
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


torch.manual_seed(SEED)
net = Net()

# %% [markdown]
# ## The loss and the optimizer
#
# Cross-entropy is small if the network gives the correct class most of the probability. Momentum extends the SGD of
# lesson 3: each step also continues in the direction of the previous steps.

# %%
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)

# %% [markdown]
# **In the template**, `model=net` is `src/blitz/model/net.py`, and `optimizer=sgd` with `optimizer.lr` and
# `optimizer.momentum` is `torch.optim.SGD`. The task combines them with the loss: `src/blitz/task/classify.py`. (The
# template's Net pools before the ReLU, which gives the same values with less work.)

# %%
torch.manual_seed(SEED)
task = build.task(config)


def same_weights():
    return all(torch.equal(a, b) for a, b in zip(net.parameters(), task.net.parameters(), strict=True))


print("The same weights before training:", same_weights())

# %% [markdown]
# ## Training
#
# This is the loop of lesson 3, with one step per batch. Every 2,000 steps we print the mean loss of these steps.

# %%
for epoch in range(EPOCHS):
    running_loss = 0.0
    for i, (inputs, labels) in enumerate(train_loader(epoch)):
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        running_loss += loss.item()
        if i % 2000 == 1999:
            print(f"[{epoch + 1}, {i + 1:5}] loss: {running_loss / 2000:.3f}")
            running_loss = 0.0

print("Finished training")

# %% [markdown]
# **In the template**, the loop is Lightning's `Trainer` (`trainer.max_epochs`), and `callback.progress.every_n_steps`
# sets how often a line is printed (`src/blitz/callback/progress.py`).

# %%
terminal.silence_lightning()  # hide its notes, so that the lines of both loops are easy to compare
trainer = build.trainer(config)
trainer.fit(task, data)

print("The same weights after training:", same_weights())

# %% [markdown]
# ## Accuracy
#
# We start with four images that the network has never seen. Its prediction is the class with the highest output.

# %%
images, labels = (batch[:4] for batch in next(iter(testloader)))
with torch.no_grad():
    predicted = net(images).argmax(1)

truth, guesses = ([CLASSES[label] for label in batch] for batch in (labels, predicted))
print("GroundTruth:", " ".join(f"{name:>5}" for name in truth))
print("Predicted:  ", " ".join(f"{name:>5}" for name in guesses))

captions, colours = [], []
for name, guess in zip(truth, guesses, strict=True):
    captions.append(name if guess == name else f"{name}, not {guess}")
    colours.append("#2a9d8f" if guess == name else "#e76f51")
imshow(images, captions, colours, "test_images.png")

# %% [markdown]
# Now we test all of them. A random guess is correct one time in ten. The accuracy by class shows which classes are
# hard.

# %%
total = torch.zeros(10, dtype=torch.long)
correct = torch.zeros(10, dtype=torch.long)
with torch.no_grad():
    for images, labels in testloader:
        predicted = net(images).argmax(1)
        total += labels.bincount(minlength=10)
        correct += labels[predicted == labels].bincount(minlength=10)

print(f"Accuracy of the network on the {total.sum()} test images: {100 * correct.sum() / total.sum():.0f} %")
for name, right, count in zip(CLASSES, correct, total, strict=True):
    print(f"Accuracy of {name:>5} : {100 * right / count:2.0f} %")

# %% [markdown]
# **In the template**, the task logs `test/acc` and `test/acc/<class>`, and reports the counts by class
# (`src/blitz/task/classify.py`, `src/blitz/runs/report.py`). `blitz-train` prints them as a table
# (`src/blitz/terminal.py`).

# %%
trainer.test(task, data, verbose=False)
header, *rows = task.report("test").tables["per_class"]
for name, count, right, accuracy in (header, *rows):
    print(f"{name:>12} {count:>7} {right:>8} {accuracy:>9}")

counts = [(count, right) for _, count, right, _ in rows]
print("The same counts:", counts == list(zip(total.tolist(), correct.tolist(), strict=True)))

# %% [markdown]
# ## On a GPU
#
# Move the network to the GPU before you create the optimizer, and move every batch:
#
# ```python
# net.to(device)
# inputs, labels = inputs.to(device), labels.to(device)
# ```
#
# **In the template**, that is `device=gpu` (`configs/device/gpu.yaml`). The default, `device=auto`, uses a GPU if there
# is one. This network is too small to gain much from it.
#
# From a terminal, `blitz-train experiment=cifar10_tutorial` runs the whole training. With `device=cpu seed=0` and the
# two settings above, it ends with the same weights as this loop.
#
# `docs/tour.md` maps all five lessons to the template.
