"""Whether pictures come from the world that a checkpoint was trained on, judged by their patches.

A model trained on a small world answers about any other with the same confidence. This is the other opinion: a small
classifier over coarse layout statistics of a picture's patches, trained on that world's pictures against pictures that are
not (`model.training.familiarity`; outlier exposure: Hendrycks et al., arXiv 1812.04606). A checkpoint has it or not: it
is the file `familiarity.safetensors` in its folder. numpy only.

Does not know cameras or questions: it scores pictures, and says from which score on they are foreign.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.config import ConfigError

FILE_NAME = "familiarity.safetensors"
BANDS = 4  # horizontal: a scene has its sky above its ground
CANNOT_TELL = (
    "I cannot tell: these pictures are unlike anything this model was trained on, so whatever it said would be a guess."
)


def layout_statistics(values: np.ndarray) -> np.ndarray:
    """values (n, M, C) patches in row order of the grid -> (n, (BANDS + 1) * C) float32: mean of each band, deviation.

    M = 8 x 8 patches of C = 256: bands of 16 patches, 1,280 numbers a picture.
    """
    values = values.astype(np.float32, copy=False)
    bands = [band.mean(axis=1) for band in np.array_split(values, BANDS, axis=1)]
    return np.concatenate([*bands, values.std(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class Familiarity:
    """The classifier. F statistics, R directions, W hidden units; all float32, numbers are (1,)."""

    mean: np.ndarray  # (F,)
    directions: np.ndarray  # (F, R) principal directions, each divided by its length in `lengths`
    lengths: np.ndarray  # (R,) deviation along each direction
    rest: np.ndarray  # (1,) variance of everything outside the directions
    hidden_weight: np.ndarray  # (W, R + 1)
    hidden_bias: np.ndarray  # (W,)
    out_weight: np.ndarray  # (W,)
    out_bias: np.ndarray  # (1,)
    limit: np.ndarray  # (1,) a score above it is foreign

    def inputs(self, statistics: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, R + 1): where a picture lies along each direction, squashed, and log of how far out in all."""
        centred = statistics - self.mean
        along = centred @ self.directions
        outside = np.square(centred).sum(axis=1) - np.square(along * self.lengths).sum(axis=1)
        distance = np.sqrt(np.square(along).sum(axis=1) + np.maximum(outside, 0) / self.rest)
        return np.concatenate([np.tanh(along / 3), np.log(distance + 1e-6)[:, None]], axis=1).astype(np.float32)

    def scores(self, values: np.ndarray) -> np.ndarray:
        """(n,) float32 log odds that a picture is foreign, of patch values (n, M, C)."""
        hidden = np.maximum(self.inputs(layout_statistics(values)) @ self.hidden_weight.T + self.hidden_bias, 0)
        scores: np.ndarray = hidden @ self.out_weight + self.out_bias
        return scores

    def is_foreign(self, scores: np.ndarray) -> bool:
        """The verdict on several pictures of one camera: their median counts, so that one odd picture does not."""
        return len(scores) > 0 and float(np.median(scores)) > float(self.limit[0])


def read_familiarity(folder: Path, patch_width: int) -> Familiarity | None:
    """The checkpoint's own, or None. ConfigError if the file is damaged or belongs to another network."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    names = [field.name for field in fields(Familiarity)]
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path} cannot be read ({error}): take it from the checkpoint's source again") from error
    if set(found) != set(names) or found["mean"].shape != ((BANDS + 1) * patch_width,):
        raise ConfigError(f"{path} does not belong to this checkpoint: remove it, or train it again")
    return Familiarity(**{name: found[name].astype(np.float32) for name in names})


def write_familiarity(folder: Path, familiarity: Familiarity) -> None:
    """Beside the checkpoint's other files; in half precision where that is enough."""
    arrays = {field.name: getattr(familiarity, field.name) for field in fields(Familiarity)}
    arrays["directions"] = arrays["directions"].astype(np.float16)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / FILE_NAME)
