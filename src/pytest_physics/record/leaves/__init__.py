"""Leaf recipes by subject: how each number follows from trace, windows, tables and settings. Loading them registers them."""

from pytest_physics.record.leaves import arm as arm
from pytest_physics.record.leaves import baseline as baseline
from pytest_physics.record.leaves import coupling as coupling
from pytest_physics.record.leaves import event as event
from pytest_physics.record.leaves import headroom as headroom
from pytest_physics.record.leaves import history as history
from pytest_physics.record.leaves import imported as imported
from pytest_physics.record.leaves import memory as memory
from pytest_physics.record.leaves import phase as phase
from pytest_physics.record.leaves import price as price
from pytest_physics.record.leaves import routing as routing
from pytest_physics.record.leaves import signature as signature
from pytest_physics.record.leaves import stress as stress
from pytest_physics.record.leaves import window as window
