"""Makes `cuda:N` host memory in every Python that has this folder on PYTHONPATH and the settings.

FAKE_CUDA_LIBRARY names what build.py built, FAKE_CUDA_DEVICES the number of devices. Nothing is
loaded before torch is.
"""

import os
import sys

if os.environ.get("FAKE_CUDA_LIBRARY"):
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.append(folder)
    import install

    sys.path.remove(folder)
    install.when_torch_is_imported()
