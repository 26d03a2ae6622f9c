"""pytest-physics: benchmark measurements that are valid, or say that they are not."""
