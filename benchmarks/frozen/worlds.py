"""Three sets of pairs to retrieve, made from real data that installed packages bring; features are computed once.

    names     a character's picture finds its Unicode name (matplotlib's fonts)
    digits    the even rows of a handwritten digit's pixels find its odd rows (scikit-learn)
    patches   a distorted patch finds the patch of a photograph that it was cut from (scikit-image, scikit-learn)

Whatever is fitted (mean, scale, principal components) is fitted to training rows alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH = 96
"""Features of an item: the first principal components of what was extracted."""
POOL = 500
"""Most candidates of a question."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Questions:
    """What is asked in an evaluation.

    Attributes:
        queries: (Q,) rows of `World.queries`.
        candidates: (C,) rows of `World.targets`, distinct.
        answers: (Q,) the place of the right candidate among them.
    """

    queries: Ints
    candidates: Ints
    answers: Ints


@dataclasses.dataclass(frozen=True)
class World:
    """Pairs to learn from, and questions about others.

    Attributes:
        name: as above.
        queries: (R, WIDTH) features.
        targets: (S, WIDTH) features. Equal targets are one row, so that a row's number is its identity.
        pairs: (P, 2) training pairs: a row of `queries` and one of `targets`.
        groups: (P,) what a pair has in common with others that are hard to tell from it.
        negatives: (P, K) rows of `targets`: training targets of other items whose features are nearest.
        validation: settings are chosen on these,
        in_distribution: reported on these,
        out_of_distribution: and on these, whose scripts, digits or photographs are new.
    """

    name: str
    queries: Floats
    targets: Floats
    pairs: Ints
    groups: Ints
    negatives: Ints
    validation: Questions
    in_distribution: Questions
    out_of_distribution: Questions


def load(name: str, cache: Path) -> World:
    """Makes a world, or reads what was made of it before."""
    file = cache / f"{name}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        parts = WORLDS[name]()
        temporary = file.with_suffix(".partial.npz")
        np.savez(temporary, **parts)
        temporary.rename(file)
    with np.load(file, allow_pickle=False) as arrays:
        return _world(name, dict(arrays))


def _world(name: str, arrays: dict[str, NDArray]) -> World:
    """Splits the pairs by part, and completes them by questions and negatives.

    Args:
        name: of the world.
        arrays: `queries` and `targets` (float), `pairs` (P, 2), `groups` (P,), and `parts` (P,): 0 training,
            1 validation, 2 in distribution, 3 out of distribution.
    """
    pairs, parts = arrays["pairs"].astype(np.int32), arrays["parts"]
    training = pairs[parts == 0]
    queries = _reduce(arrays["queries"], training[:, 0])
    targets = _reduce(arrays["targets"], training[:, 1])
    _, groups = np.unique(arrays["groups"][parts == 0], return_inverse=True)
    questions = [_ask(pairs[parts == part], seed=part) for part in (1, 2, 3)]
    return World(
        name, queries, targets, training, groups.astype(np.int32), _nearest(targets, training[:, 1]), *questions
    )


def _reduce(features: NDArray, training_rows: Ints) -> Floats:
    """The first principal components, scaled to mean squares of one in all."""
    from sklearn.decomposition import PCA

    features = features.astype(np.float64)
    mean, scale = features[training_rows].mean(0), features[training_rows].std(0) + 1e-3
    features = (features - mean) / scale
    fitted = PCA(min(WIDTH, features.shape[1]), random_state=0).fit(features[training_rows])
    reduced = fitted.transform(features)
    # One scale for all components: the leading ones stay the leading ones.
    reduced /= np.sqrt(np.mean(reduced[training_rows] ** 2))
    return np.pad(reduced, ((0, 0), (0, WIDTH - reduced.shape[1]))).astype(np.float32)


def _ask(pairs: Ints, seed: int) -> Questions:
    """Questions whose pools are each other's answers."""
    random = np.random.default_rng(seed)
    pairs = random.permutation(pairs)
    candidates = pairs[np.sort(np.unique(pairs[:, 1], return_index=True)[1])][:POOL, 1]
    places = {row: place for place, row in enumerate(candidates.tolist())}
    pairs = pairs[[row in places for row in pairs[:, 1].tolist()]][: 2 * POOL]
    answers = np.array([places[row] for row in pairs[:, 1].tolist()], np.int32)
    return Questions(pairs[:, 0], candidates, answers)


def _nearest(targets: Floats, rows: Ints, count: int = 4) -> Ints:
    """The training targets nearest to each training target, by the cosine of frozen features."""
    distinct, places = np.unique(rows, return_inverse=True)
    units = targets[distinct] / np.linalg.norm(targets[distinct], axis=1, keepdims=True)
    nearest = np.empty((len(distinct), count), np.int32)
    for first in range(0, len(distinct), 1024):
        similarity = units[first : first + 1024] @ units.T
        similarity[np.arange(len(similarity)), first + np.arange(len(similarity))] = -np.inf
        found = np.argpartition(-similarity, count, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, found, axis=1), axis=1)
        nearest[first : first + 1024] = np.take_along_axis(found, order, axis=1)
    return distinct[nearest][places].astype(np.int32)


def _names() -> dict[str, NDArray]:
    from skimage.feature import hog
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    from ega_jax.data.glyphs.catalog import build_catalog

    size = 32
    catalog = build_catalog(size, seed=0)
    parts = {"train": 0, "validation": 1, "test": 2, "unseen_scripts": 3, "unseen_faces": 3}
    glyphs = [glyph for glyph in catalog.glyphs if glyph.part in parts and glyph.path not in catalog.ambiguous]
    glyphs = [glyph for part in parts for glyph in [g for g in glyphs if g.part == part][:8000]]
    pictures = np.stack([np.frombuffer(catalog.pixels[glyph.path], np.uint8) for glyph in glyphs])
    pictures = 1 - pictures.reshape(-1, size, size) / 255
    edges = np.stack([hog(picture, 8, (8, 8), (2, 2), feature_vector=True) for picture in pictures])
    coarse = pictures.reshape(-1, size // 4, 4, size // 4, 4).mean((2, 4)).reshape(len(pictures), -1)
    names = sorted({glyph.character.name for glyph in glyphs})
    rows = {name: row for row, name in enumerate(names)}
    seen = sorted({glyph.character.name for glyph in glyphs if glyph.part == "train"})
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit(seen)
    trigrams = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 3), min_df=3).fit(seen)
    texts = [
        TruncatedSVD(2 * WIDTH, random_state=0).fit(vectorizer.transform(seen)).transform(vectorizer.transform(names))
        for vectorizer in (words, trigrams)
    ]
    return {
        "queries": np.concatenate([edges, coarse], axis=1),
        "targets": np.concatenate(texts, axis=1),
        "pairs": np.array([(row, rows[glyph.character.name]) for row, glyph in enumerate(glyphs)]),
        "parts": np.array([parts[glyph.part] for glyph in glyphs]),
        # The script of a letter, the kind of a symbol: its first word.
        "groups": np.array([glyph.character.name.split()[0] for glyph in glyphs]),
    }


def _digits() -> dict[str, NDArray]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8)
    random = np.random.default_rng(0)
    parts = random.choice(3, size=len(labels), p=[0.7, 0.1, 0.2])
    parts[labels >= 8] = 3
    rows = np.arange(len(labels))
    return {
        "queries": pixels[:, ::2].reshape(len(labels), -1),
        "targets": pixels[:, 1::2].reshape(len(labels), -1),
        "pairs": np.stack([rows, rows], axis=1),
        "parts": parts,
        "groups": labels,
    }


PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "ihc.png", "moon.png"),
)
HELD_OUT_PHOTOGRAPHS = (
    *("hubble_deep_field.jpg", "rocket.jpg", "motorcycle_left.png", "retina.jpg", "china.jpg", "flower.jpg"),
)


def _patches(a_photograph: int = 600, side: int = 32) -> dict[str, NDArray]:
    random = np.random.default_rng(0)
    sharp, distorted, parts, groups = [], [], [], []
    for name in (*PHOTOGRAPHS, *HELD_OUT_PHOTOGRAPHS):
        picture = _photograph(name)
        held_out = name in HELD_OUT_PHOTOGRAPHS
        count = a_photograph // 3 if held_out else a_photograph
        for part in [3] * count if held_out else random.choice(3, size=count, p=[0.8, 0.08, 0.12]):
            top, left = (random.integers(8, length - side - 8) for length in picture.shape[:2])
            sharp.append(_describe(picture[top : top + side, left : left + side]))
            distorted.append(_describe(_distort(picture, top, left, side, random)))
            parts.append(part)
            groups.append(name)
    rows = np.arange(len(sharp))
    return {
        "queries": np.stack(distorted),
        "targets": np.stack(sharp),
        "pairs": np.stack([rows, rows], axis=1),
        "parts": np.array(parts),
        "groups": np.array(groups),
    }


def _photograph(name: str) -> NDArray[np.float64]:
    """In colour, (height, width, 3), from 0 to 1; 300 pixels high."""
    import skimage
    from skimage import io, transform
    from sklearn.datasets import load_sample_image

    if name in ("china.jpg", "flower.jpg"):
        picture = load_sample_image(name)
    else:
        # Read from the package: `skimage.data` would download what it thinks is missing.
        picture = io.imread(Path(skimage.__file__).parent / "data" / name)
    picture = picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    width = round(picture.shape[1] * 300 / picture.shape[0])
    return transform.resize(picture / 255, (300, width, 3), anti_aliasing=True)


def _distort(picture: NDArray, top: int, left: int, side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A patch, moved, turned, blurred, relit and with noise."""
    from scipy.ndimage import gaussian_filter, rotate

    dy, dx = random.integers(-5, 6, size=2)
    around = picture[top + dy - 3 : top + dy + side + 3, left + dx - 3 : left + dx + side + 3]
    turned = rotate(around, random.uniform(-12, 12), reshape=False, order=1, mode="reflect")[3:-3, 3:-3]
    blurred = gaussian_filter(turned, (random.uniform(0, 1.5),) * 2 + (0,))
    relit = blurred * random.uniform(0.6, 1.4, size=3) + random.uniform(-0.15, 0.15)
    return np.clip(relit + 0.05 * random.standard_normal(relit.shape), 0, 1)


def _describe(patch: NDArray) -> NDArray[np.float64]:
    """Edges, coarse brightness and mean colours."""
    from skimage.feature import hog

    grey = patch.mean(2)
    side = grey.shape[0] // 4
    coarse = grey.reshape(side, 4, side, 4).mean((1, 3)).ravel()
    colours = patch.reshape(2, -1, 2, patch.shape[1] // 2, 3).mean((1, 3)).ravel()
    return np.concatenate([hog(grey, 8, (8, 8), (2, 2), feature_vector=True), coarse, colours])


WORLDS: dict[str, Callable[[], dict[str, NDArray]]] = {"names": _names, "digits": _digits, "patches": _patches}
