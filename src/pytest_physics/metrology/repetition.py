from __future__ import annotations
import numpy as np
def circular_discrepancy(phases):
    x = np.sort(np.asarray(phases) % 1.0); n = len(x)
    return float((np.arange(1, n+1)/n - x).max() + (x - np.arange(n)/n).max())
