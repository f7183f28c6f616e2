# %% [markdown]
# # A tour of a trained model
#
# `make quick` trains the model first. Then open `docs/tour.py` as a notebook (VS Code, or Jupyter with Jupytext) in the
# project's folder, or run `python docs/tour.py`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torchvision.utils import make_grid

import spiking_diffusion as sd


def show(images: torch.Tensor, title: str) -> None:
    """Images (N, C, H, W) in rows of eight."""
    plt.figure(figsize=(8, len(images) / 8 + 0.5))
    plt.imshow(make_grid(images, nrow=8, pad_value=0.8).permute(1, 2, 0))
    plt.title(title)
    plt.axis("off")
    plt.show()


model = sd.load("digits")
show(model.sample(32, seed=1), "samples")

# %% [markdown]
# ## Watch them emerge
#
# The callback gets the tokens after each step. A masked token is K, and sends no current to the decoder.

# %%
states: list[torch.Tensor] = []
model.sample(8, seed=1, callback=lambda tokens, t: states.append(tokens))
chosen = np.linspace(0, len(states) - 1, 6).round().astype(int)
show(torch.cat([model.decode(states[i]) for i in chosen]), "tokens as they are revealed, from top to bottom")

# %% [markdown]
# ## Draw in few steps
#
# Samplers differ in which tokens they reveal first, and how many at once.

# %%
for sampler in ("ancestral", "cosine", "confidence", "margin", "remask"):
    show(model.sample(16, seed=1, sampler=sampler, steps=6), f"{sampler}, 6 steps")

# %% [markdown]
# ## Complete halves of images
#
# Tokens whose receptive field has a masked pixel in it are redrawn. The others are kept.

# %%
images = torch.from_numpy(np.load("results/data/digits.npz")["test_images"][:8]) / 255
mask = torch.zeros(images.shape[2:], dtype=torch.bool)
mask[len(mask) // 2 :] = True
halves = torch.where(mask, torch.tensor(0.5), images)
completed = torch.cat([model.inpaint(image[None], mask, n=1) for image in images])
show(torch.cat([images, halves, completed]), "test images, their upper halves, and these completed")
