"""Posteriors of posteriordb beside their reference draws: two of the ten of examples/posteriordb.py, which runs all."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from support.scripts import load_script

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("FASTVI_DATA", ROOT.parent / "shared" / "data")) / "posteriordb"


def posteriordb() -> ModuleType:
    return load_script("examples/posteriordb.py")


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs posteriordb's draws and data in {FOLDER}: see FASTVI_DATA")
@pytest.mark.parametrize(
    ("name", "num_warmup", "num_samples"),
    [("kidiq-kidscore_momhs", 300, 800), ("kilpisjarvi_mod-kilpisjarvi", 500, 600)],
)
def test_draws_agree_with_the_reference(name: str, num_warmup: int, num_samples: int) -> None:
    """The second has a correlation of -0.99999, and is written for one chain."""
    module = posteriordb()
    model, reference = module.read(FOLDER, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = module.draw(model, num_samples, seed=1, num_warmup=num_warmup)
    found = module.compare(model, samples, reference, 0.0)
    assert found.is_good, found


def test_every_posterior_has_its_model() -> None:
    """With data of the right names and no more than three rows, all log densities are finite numbers of each chain."""
    module = posteriordb()
    rows = {name: [1.0, 2.0, 4.0] for name in ("y", "x", "kid_score", "mom_hs", "mom_iq", "age_discrete", "weight")}
    rows |= {name: [1.0, 3.0, 2.0] for name in ("diam1", "diam2", "canopy_height", "total_height", "density", "group")}
    rows |= {name: [2.0, 1.0, 0.0] for name in ("partyid7", "real_ideo", "race_adj", "educ1", "gender", "income")}
    data = {**rows, "X": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], "pmualpha": 0, "psalpha": 1, "pmubeta": 0, "psbeta": 1}
    for name, (data_name, make) in module.POSTERIORS.items():
        model = make({**data, "y": [1.0] * 8, "sigma": [2.0] * 8} if data_name == "eight_schools" else data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = module.draw(model, 2, seed=1, num_warmup=0, algorithm="mala", step_size=1e-6, num_chains=3)
        assert samples.statistics["lp"].isfinite().all(), name
