"""Time a question with the published 7B shape and random weights, stage by stage, against its theoretical minimum.

    python -m benchmarks.published_shape --device cuda --dtype bfloat16                          a GPU, 7B
    python -m benchmarks.published_shape --device cuda --dtype bfloat16 --patch-storage int8 --language-4bit
    python -m benchmarks.published_shape --scale 16 --frames 1024 --threads 1                    1/16 size, a CPU

A memory of N frames is filled with synthetic features of a static camera, the worst case of selection. --placement host:
patches are in the machine's memory, in the agent's MemoryStore; device: on the device. The minimum ("floor") of a stage is
max(FLOP / rate, bytes / bandwidth), with both rates measured here by one large product and one large copy. Prompts longer
than --most-tokens are not run (a CPU needs minutes for them).
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import add_out, machine, measured_path, show, timed, write_result
from benchmarks.shape import Work, decoding, encoding, merging, prefill, published_config, random_checkpoint
from memory.limits import Limits
from memory.store import MemoryStore
from model.features import TextFeatures, VisualContext
from model.select import Keyframes, QueryCandidates, select_keyframes
from model.sizing import Plan, parameters
from model.storage import NUM_SCALARS, pack, unpack
from model.video_model import DTYPES, VideoModel

QUESTION = "Which way did the red car go?"
POOL = 8  # distinct frames, which a history repeats
CAMERA = "yard"
NEW_TOKENS = 17
WARM_UP_FRAMES = 64


def main() -> None:
    args = arguments()
    plan = Plan(args.device, args.dtype, args.patch_storage, args.language_4bit)
    if args.threads:
        torch.set_num_threads(args.threads)
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    here = machine(torch=torch.__version__, device=name, threads=torch.get_num_threads())
    show(here)
    config = published_config(args.scale)
    counts = parameters(config)
    checkpoint = random_checkpoint(config, args.device, DTYPES[args.dtype], language_4bit=args.language_4bit)
    model = VideoModel(checkpoint, name=f"published-shape-{args.scale}", patch_dtype=args.patch_storage)
    bench = Bench(model, counts, plan, *rates(args.device, DTYPES[args.dtype]))
    measured: dict[str, Any] = {"plan": asdict(plan), "scale": args.scale, "placement": args.placement}
    measured |= {"matrix_tflop_s": bench.flop_per_s / 1e12, "memory_gb_s": bench.bytes_per_s / 1e9}
    measured["encoder"] = bench.encoder(args.batch, args.repeats)
    with history(model, WARM_UP_FRAMES, args.placement) as source:
        bench.once(source, model.embed_text(QUESTION), 0 if args.device == "cpu" else args.most_tokens)
    del source
    for num_frames in args.frames:
        with history(model, num_frames, args.placement) as source:
            measured[f"N {num_frames}"] = bench.question(source, args.repeats, args.most_tokens)
        del source  # frees it before the next one is filled
    write_result(measured_path(args.out, f"{args.name}.json"), here, measured)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, choices=[1, 16], default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--patch-storage", choices=["float16", "int8"], default="float16")
    parser.add_argument("--language-4bit", action="store_true")
    parser.add_argument("--placement", choices=["host", "device"], default="host")
    parser.add_argument("--frames", type=int, nargs="+", default=[1024, 8192, 10_000])
    parser.add_argument("--most-tokens", type=int, default=32_768)
    parser.add_argument("--batch", type=int, default=8, help="frames encoded at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--name", default="bench-published-shape", help="name of the JSON file, without .json")
    add_out(parser)
    return parser.parse_args()


@dataclass
class Bench:
    """One model on one device with measured rates."""

    model: VideoModel
    counts: dict[str, int]
    plan: Plan
    flop_per_s: float
    bytes_per_s: float

    def encoder(self, batch: int, repeats: int) -> dict[str, float]:
        """Return frames per second of `encode`, with preprocessing."""
        side = self.model.config.vision.image.image_size
        images = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
        self.model.encode(images[:1])
        seconds = float(np.median([timed(lambda: self.model.encode(images)) for _ in range(repeats)])) / batch
        work = encoding(self.model.config, self.counts, self.plan)
        floor = work.seconds(self.flop_per_s, self.bytes_per_s)  # weights are read once per batch
        found = {"frames_s": 1 / seconds, "floor_frames_s": 1 / floor, "ratio": seconds / floor}
        print(f"encoder: {found}", flush=True)
        return found

    def question(self, source: Any, repeats: int, most_tokens: int) -> dict[str, Any]:
        """Time every stage of one question over this history. Returns medians."""
        if self.plan.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        query = self.model.embed_text(QUESTION)
        runs = [self.once(source, query, most_tokens) for _ in range(repeats)]
        num_tokens = int(runs[0]["prompt_tokens"])
        config = self.model.config
        found: dict[str, Any] = {"prompt_tokens": num_tokens}
        floors = {
            "select": Work(2 * source.num_frames * 512, 4 * source.num_frames * 512),
            "merge": merging(config, source.num_frames, self.plan),
            "prefill": prefill(config, self.counts, num_tokens, self.plan),
            "token": decoding(config, self.counts, num_tokens, self.plan),
        }
        for stage, work in floors.items():
            times = [run[stage] for run in runs if stage in run]
            if times:
                found[stage] = self.against(work, float(np.median(times)))
        if "token" in found:
            first = [sum(run[stage] for stage in ("embed", "select", "merge", "prefill")) for run in runs]
            found |= {"first_token_s": float(np.median(first)), "tokens_s": 1 / found["token"]["seconds"]}
        if self.plan.device == "cpu":  # on a shared machine the clock also counts other programs
            found["merge"]["cpu_s"] = float(np.median([run["merge_cpu"] for run in runs]))
        found["peak_gb"] = self.peak_bytes() / 1e9
        print(f"N {source.num_frames}: {found}", flush=True)
        return found

    def once(self, source: Any, query: TextFeatures, most_tokens: int) -> dict[str, float]:
        """Return the seconds of each stage."""
        marks = [time.perf_counter()]
        self.model.embed_text(QUESTION)
        marks.append(time.perf_counter())
        keyframes = select(self.model, source, query)
        marks.append(time.perf_counter())
        cpu_before = time.process_time()
        context = self.model.build_context(source, keyframes, query)  # waits for the device
        cpu_s = time.process_time() - cpu_before
        marks.append(time.perf_counter())
        found = dict(zip(("embed", "select", "merge"), np.diff(marks).tolist(), strict=True))
        found |= {"prompt_tokens": context.num_tokens, "merge_cpu": cpu_s}
        return found | (self.answer(context) if context.num_tokens <= most_tokens else {})

    def answer(self, context: VisualContext) -> dict[str, float]:
        """Return the seconds to the first piece and for each further one."""
        pieces = self.model.stream(QUESTION, context, max_new_tokens=NEW_TOKENS)
        marks = [time.perf_counter(), *(time.perf_counter() for _ in pieces)]
        gaps = np.diff(marks)
        return {"prefill": float(gaps[0]), "token": float(np.median(gaps[1:]))}

    def against(self, work: Work, seconds: float) -> dict[str, float]:
        """Return the measured time beside its floor."""
        floor = work.seconds(self.flop_per_s, self.bytes_per_s)
        return {"seconds": seconds, "floor_s": floor, "ratio": seconds / floor, "tflop": work.flop / 1e12,
                "gb": work.num_bytes / 1e9}  # fmt: skip

    def peak_bytes(self) -> float:
        """Return the largest memory so far: of the device since the history was made, on a CPU of the process."""
        if self.plan.device.startswith("cuda"):
            return float(torch.cuda.max_memory_allocated())
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def select(model: VideoModel, source: Any, query: TextFeatures) -> Keyframes:
    """Select keyframes with the settings of the published checkpoint."""
    return select_keyframes(
        QueryCandidates(source, query.unit), num_keyframes=model.config.num_keyframes, tau=model.config.tau
    )


def rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Return floating-point operations and bytes (read and written) per second, the best of five large ones."""
    side = 8192 if device.startswith("cuda") else 2048
    one = torch.randn(side, side, device=device).to(dtype)
    other = torch.randn(side, side, device=device).to(dtype)
    block = torch.zeros(2**30 if device.startswith("cuda") else 2**27, dtype=torch.uint8, device=device)

    def best(call: Any) -> float:
        def whole() -> None:
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        whole()
        return min(timed(whole) for _ in range(5))

    return 2 * side**3 / best(lambda: one @ other), 2 * block.numel() / best(block.clone)


@contextmanager
def history(model: VideoModel, num_frames: int, placement: str) -> Iterator[Any]:
    """Return N frames of a static camera: embeddings within a cosine of 0.9 of each other, patches from a small pool."""
    rng, config = np.random.default_rng(0), model.config
    patches, scales = pack(
        rng.normal(size=(POOL, config.num_patches, config.patch_width)).astype(np.float32),
        np.dtype(model.info.patch_dtype),
    )
    scalars = np.concatenate([np.zeros((*scales.shape[:2], NUM_SCALARS), np.float32), scales], axis=-1)
    values = unpack(torch.from_numpy(patches), torch.from_numpy(scalars))
    scalars[..., :NUM_SCALARS] = model.merger.scalars(values).numpy()
    base = rng.normal(size=config.dual_encoder.projection_dim)
    raw = (base + 0.2 * rng.normal(size=(num_frames, len(base)))).astype(np.float32)
    info = model.info
    with (
        tempfile.TemporaryDirectory() as folder,
        MemoryStore(
            Path(folder), embedding_dim=info.embedding_dim, limits=Limits(frames=num_frames, hot_frames=num_frames),
            patch_shape=(info.patches_per_frame, info.patch_width), patch_dtype=info.patch_dtype,
            num_scalars=info.num_scalars, encoder=info.fingerprint,
        ) as store,
    ):  # fmt: skip
        summaries = values.numpy().mean(axis=1)
        for row in range(num_frames):
            own = {} if placement == "device" else {"patches": patches[row % POOL], "scalars": scalars[row % POOL]}
            frame_id = store.append(CAMERA, float(row), b"a picture")
            store.attach(frame_id, embedding=raw[row], summary=summaries[row % POOL], **own)
        window = store.window([CAMERA])
        yield window if placement == "host" else OnDevice(window, patches, scalars, model.network.image_newline.device)


@dataclass
class Block:
    """Rows of `OnDevice`."""

    patches: torch.Tensor
    scalars: torch.Tensor
    present: np.ndarray


class OnDevice:
    """A window whose patches are on the device."""

    def __init__(self, window: Any, patches: np.ndarray, scalars: np.ndarray, device: torch.device) -> None:
        self._window, self.num_frames = window, window.num_frames
        places = torch.arange(self.num_frames, device=device) % POOL
        self._patches = torch.from_numpy(patches).to(device)[places]
        self._scalars = torch.from_numpy(scalars).to(device)[places]

    def read(self, start: int, stop: int) -> Block:
        return Block(self._patches[start:stop], self._scalars[start:stop], np.ones(stop - start, bool))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._window, name)


if __name__ == "__main__":
    main()
