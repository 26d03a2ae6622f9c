"""Wait for the accelerator, if this process uses one.

Kernels run asynchronously: a window that closes without waiting has timed their launch. A window over code that never touched
torch has nothing to wait for, so torch is looked up and never imported: the import alone costs seconds. Only the current CUDA
device is waited for; asking the others would create a context, and hundreds of megabytes, on each. An error of an earlier
kernel surfaces here.
"""

from __future__ import annotations

import sys


def synchronise() -> bool:
    """Wait for all work on the current CUDA device; whether there was a device to wait for."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)  # absent too while another thread is still importing torch
    if cuda is None or not cuda.is_initialized():
        return False
    cuda.synchronize()
    return True
