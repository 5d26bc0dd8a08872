"""Judge from their patches whether pictures look like those that a checkpoint was trained on.

A model trained on a small world of pictures answers about any other with the same confidence. This classifier warns of
that. It uses coarse layout statistics of a picture's patches, and was trained on pictures of that world against other
pictures (`model.training.familiarity`; outlier exposure: Hendrycks et al., arXiv 1812.04606). It is optional, and
stored in the file `familiarity.safetensors` of the checkpoint folder. numpy only.

It scores pictures and has a limit above which they count as foreign. It knows no cameras and no questions.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.config import ConfigError

FILE_NAME = "familiarity.safetensors"
BANDS = 4  # horizontal bands of the picture, as sky is above ground
CANNOT_TELL = (
    "I cannot tell: these pictures are unlike anything this model was trained on, so whatever it said would be a guess."
)


def layout_statistics(values: np.ndarray) -> np.ndarray:
    """Return layout statistics of n pictures: the mean patch of each horizontal band of the picture, and the deviation.

    values (n, M, C): the M patches of each picture, row by row of the grid, with C channels. The result is (n, (BANDS +
    1) * C) float32. M = 8 x 8 patches with C = 256: 4 bands of 16 patches, 1,280 numbers.
    """
    values = values.astype(np.float32, copy=False)
    bands = [band.mean(axis=1) for band in np.array_split(values, BANDS, axis=1)]
    return np.concatenate([*bands, values.std(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class Familiarity:
    """The weights of the classifier that says whether pictures are foreign, that is, unlike the model's training data.

    It has F input statistics, R principal directions and W hidden units. All arrays are float32.
    """

    mean: np.ndarray  # (F,)
    directions: np.ndarray  # (F, R) principal directions, each divided by its length in `lengths`
    lengths: np.ndarray  # (R,) standard deviation along each direction
    rest: np.ndarray  # (1,) variance of what the directions do not explain
    hidden_weight: np.ndarray  # (W, R + 1)
    hidden_bias: np.ndarray  # (W,)
    out_weight: np.ndarray  # (W,)
    out_bias: np.ndarray  # (1,)
    limit: np.ndarray  # (1,) a picture with a higher score is foreign

    def inputs(self, statistics: np.ndarray) -> np.ndarray:
        """Return the classifier's input for n pictures, (n, R + 1), from their layout statistics, (n, F).

        It holds the squashed position along each of the R principal directions of the F statistics, and the logarithm
        of the distance from the training data.
        """
        centred = statistics - self.mean
        along = centred @ self.directions
        outside = np.square(centred).sum(axis=1) - np.square(along * self.lengths).sum(axis=1)
        distance = np.sqrt(np.square(along).sum(axis=1) + np.maximum(outside, 0) / self.rest)
        return np.concatenate([np.tanh(along / 3), np.log(distance + 1e-6)[:, None]], axis=1).astype(np.float32)

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Return for each of n pictures the log odds that it is foreign (unlike the training data), (n,) float32.

        values (n, M, C): the M patches of each picture, with C channels.
        """
        hidden = np.maximum(self.inputs(layout_statistics(values)) @ self.hidden_weight.T + self.hidden_bias, 0)
        scores: np.ndarray = hidden @ self.out_weight + self.out_bias
        return scores

    def is_foreign(self, scores: np.ndarray) -> bool:
        """Return whether the pictures of one camera, with these `scores`, are foreign: unlike the training data.

        The median score decides, so one odd picture cannot.
        """
        return len(scores) > 0 and float(np.median(scores)) > float(self.limit[0])


def read_familiarity(folder: Path, patch_width: int) -> Familiarity | None:
    """Read the classifier of foreign pictures (unlike the training data) in a checkpoint folder; None if it has none.

    patch_width: number of channels of a patch. Raises ConfigError if the file is damaged or belongs to another model.
    """
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
    """Write the classifier to `familiarity.safetensors` in the checkpoint folder, partly in half precision."""
    arrays = {field.name: getattr(familiarity, field.name) for field in fields(Familiarity)}
    arrays["directions"] = arrays["directions"].astype(np.float16)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / FILE_NAME)
