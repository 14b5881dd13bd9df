"""The composer of a sweep: the configurations that Hydra composes, in less time."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from dora.cli.composer import Composer
from dora.package import CONF
from runs import configure


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("task=sst2", "budget=r2", "seed=3"),
        ("model=tiny_deberta", "model.lr.full=1e-3", "method=full"),
        ("lr=2e-3", "target=[q,v]", "experiment=study_tiny", "data.dir=/tmp"),
        ("method=dora", "method.beta=0.5", "task=mnli"),
        ("experiment=study_tiny_deberta", "rates.cola.full=1", "max_steps=null"),
        ("results=a b", "model=minilm"),
    ],
)
def test_a_sweep_composes_what_hydra_composes(words: tuple[str, ...]) -> None:
    expected = configure(*words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        # A sweep has a base, explaining a mistake has none.
        for base in (loader.load_configuration("config", [], RunMode.MULTIRUN), None):
            compose = Composer(loader, base)
            assert compose(words) == expected
            # The second comes from the first's choices, which the first must not have changed.
            assert compose(words) == expected
            with pytest.raises((HydraException, OmegaConfBaseException)):
                compose(["lrr=3"])
