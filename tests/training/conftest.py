import narrow
import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="module")
def narrow_networks():
    """Encoders of this module are narrow."""
    with pytest.MonkeyPatch.context() as patch:
        narrow.cut_widths(patch.setattr)
        yield


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory):
    """Five clips of different lengths and rates, three in the folder and two in one below; clip 0 has 0.2 s."""
    root = tmp_path_factory.mktemp("audio") / "clips"
    (root / "inner").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i, (seconds, rate) in enumerate([(0.2, 16000), (0.7, 8000), (1.0, 16000), (1.5, 44100), (0.6, 16000)]):
        samples = 0.1 * generator.standard_normal(int(seconds * rate))
        soundfile.write(root / ("inner" if i % 2 else "") / f"{i}.wav", samples, rate)
    return root
