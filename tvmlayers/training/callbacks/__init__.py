"""What watches `fit` and steps in: Keras's callbacks, their hooks and their arguments."""

from tvmlayers.training.callbacks.backup import BackupAndRestore
from tvmlayers.training.callbacks.base import Callback, CallbackList, History
from tvmlayers.training.callbacks.files import CSVLogger, ModelCheckpoint
from tvmlayers.training.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from tvmlayers.training.callbacks.stopping import EarlyStopping, TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
