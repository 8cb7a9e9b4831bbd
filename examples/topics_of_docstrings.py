"""Topics of the standard library's docstrings, by latent Dirichlet allocation, beside scikit-learn's and gensim's.

Every docstring of a module, class or function is a document. Each library is fitted to nine of ten documents, from
several starts; one evaluator, `fastvi.mean_field.documents_bound`, then bounds the log probability of the others.

    python examples/topics_of_docstrings.py

takes about two minutes on two cores. gensim is compared where it is installed. ``--texts FILE`` takes the lines of a
file as documents in place of the docstrings, such as the 300 news texts that gensim's package has:

    python -c "from gensim.test.utils import datapath; print(datapath('lee_background.cor'))"
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import LatentDirichletAllocation as ScikitLDA
from sklearn.feature_extraction.text import CountVectorizer

from fastvi.mean_field import LatentDirichletAllocation, documents_bound


class Result(NamedTuple):
    """Seconds for one pass over the documents, and the held-out bound in nats for each word, of each start."""

    name: str
    seconds: list[float]
    bounds: list[float]


def docstrings(limit: int | None = None) -> Iterator[str]:
    """Every docstring of at least 80 characters below the standard library's folder, or those of some files."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests"} & set(file.parts)]
    for file in files[:limit]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files that are wrong on purpose, and old escapes in others
            try:
                tree = ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= 80:
                    yield text


def corpus(texts: list[str]) -> tuple[Any, Any, np.ndarray]:
    """Counts of words for training and for testing, and the words."""
    vectorizer = CountVectorizer(stop_words="english", token_pattern=r"[a-z]{3,}", min_df=5, max_df=0.2)
    counts = vectorizer.fit_transform(texts)
    counts = counts[np.asarray(counts.sum(1)).ravel() > 0]
    is_test = np.random.default_rng(0).permutation(counts.shape[0]) % 10 == 0
    return counts[~is_test], counts[is_test], vectorizer.get_feature_names_out()


def run(
    name: str, fit: Callable[[int], Any], passes: int, starts: int, prior: float, held_out: Any
) -> tuple[Result, Any]:
    """Fit from each start; ``fit(seed)`` returns the topics' parameters, (K, V)."""
    seconds, bounds, components = [], [], None
    words = float(held_out.sum())
    for seed in range(starts):
        begin = time.perf_counter()
        components = fit(seed)
        seconds.append((time.perf_counter() - begin) / passes)
        bounds.append(float(documents_bound(held_out, components, prior).sum()) / words)
    shown = f"{np.mean(bounds):.4f} +- {np.std(bounds):.4f} (best {max(bounds):.4f})"
    print(f"{name:20}{shown:>36}{min(seconds):>14.3f}", flush=True)
    return Result(name, seconds, bounds), components


def compare(
    texts: list[str], topics: int, passes: int, starts: int, batch: int = 256
) -> tuple[list[Result], Any, np.ndarray]:
    """Results of all libraries by all methods, fastvi's last topics, and the words."""
    train, held_out, words = corpus(texts)
    print(
        f"{train.shape[0]:,} documents, {held_out.shape[0]:,} held out, {len(words):,} words, {topics} topics",
        flush=True,
    )
    print(f"{'':20}{'held-out nats/word, deviation, best':>36}{'seconds/pass':>14}")
    prior, results, shown = 1.0 / topics, [], None
    for method in ("batch", "online"):
        options = {"learning_method": method, "max_iter": passes, "batch_size": batch}

        def ours(seed: int, options: dict[str, Any] = options) -> Any:
            return LatentDirichletAllocation(topics, random_state=seed, **options).fit(train).components_

        def theirs(seed: int, options: dict[str, Any] = options) -> Any:
            return ScikitLDA(n_components=topics, random_state=seed, **options).fit(train).components_

        found, components = run(f"fastvi, {method}", ours, passes, starts, prior, held_out)
        shown = components if shown is None else shown
        results += [found, run(f"scikit-learn, {method}", theirs, passes, starts, prior, held_out)[0]]
    if importlib.util.find_spec("gensim"):
        from gensim.matutils import Sparse2Corpus
        from gensim.models import LdaModel

        def gensims(seed: int) -> Any:
            documents = Sparse2Corpus(train, documents_columns=False)
            settings = {"chunksize": batch, "passes": passes, "decay": 0.7, "offset": 10.0, "eval_every": None}
            names = dict(enumerate(words))
            model = LdaModel(documents, topics, names, random_state=seed, dtype=np.float64, **settings)
            return model.state.get_lambda()

        results.append(run("gensim, online", gensims, passes, starts, prior, held_out)[0])
    return results, shown, words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--passes", type=int, default=10, help="over all documents")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256, help="documents of a step of the online methods")
    parser.add_argument("--files", type=int, help="read this many files of the standard library only")
    parser.add_argument("--texts", type=Path, help="a file with a document on each line")
    options = parser.parse_args()
    if options.texts is None:
        texts = list(docstrings(options.files))
    else:
        texts = options.texts.read_text(encoding="utf-8").splitlines()
    _, components, words = compare(texts, options.topics, options.passes, options.starts, options.batch)
    for topic in components[:8]:
        print("  ", " ".join(words[topic.argsort()[::-1][:9]]))


if __name__ == "__main__":
    main()
