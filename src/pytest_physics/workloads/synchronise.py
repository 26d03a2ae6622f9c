"""Wait for the accelerator, if this process uses one.

Kernels run asynchronously: a window that closes without waiting has timed their launch. A window over code that never touched
torch has nothing to wait for, so torch is looked up and never imported: the import alone costs seconds. The current CUDA device
is waited for, and every other on which this process has a context: work may have been sent to ``cuda:1`` while ``cuda:0`` is current.
The rest is left alone; asking it would create a context, and hundreds of megabytes, on each. An error of an earlier kernel
surfaces here.
"""

from __future__ import annotations

import sys


def synchronise() -> bool:
    """Wait for all work on the CUDA devices in use; whether there was a device to wait for."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # absent too while another thread is still importing torch
    if cuda is None or not cuda.is_initialized():
        return False
    cuda.synchronize()
    if cuda.device_count() > 1:
        # torch's own tests ask like this; without it, the current device is all that is known
        in_use = getattr(getattr(torch, "_C", None), "_cuda_hasPrimaryContext", lambda _index: False)
        current = cuda.current_device()
        for index in range(cuda.device_count()):
            if index != current and in_use(index):
                cuda.synchronize(index)
    return True
