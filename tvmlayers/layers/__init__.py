"""What users write: layers, models and initialisers. Pure Python and NumPy; compiles nothing."""

from tvmlayers.layers import initializers
from tvmlayers.layers.activation import Activation
from tvmlayers.layers.base import Layer, as_model
from tvmlayers.layers.batch_normalization import BatchNormalization
from tvmlayers.layers.concatenate import Concatenate
from tvmlayers.layers.dense import Dense
from tvmlayers.layers.dot import Dot
from tvmlayers.layers.dot_interaction import DotInteraction
from tvmlayers.layers.dropout import Dropout
from tvmlayers.layers.elementwise import ELU, LeakyReLU, PReLU, Rescaling
from tvmlayers.layers.embedding import Embedding
from tvmlayers.layers.embedding_bag import EmbeddingBag
from tvmlayers.layers.flatten import Flatten
from tvmlayers.layers.graph import Node, SymbolicTensor
from tvmlayers.layers.input import Input
from tvmlayers.layers.merge import Add, Average, Maximum, Minimum, Multiply, Subtract
from tvmlayers.layers.model import Model
from tvmlayers.layers.normalization import LayerNormalization, RMSNormalization, UnitNormalization
from tvmlayers.layers.pooling import GlobalAveragePooling1D, GlobalMaxPooling1D
from tvmlayers.layers.quantize import quantize
from tvmlayers.layers.reshape import Reshape
from tvmlayers.layers.sequential import Sequential
from tvmlayers.layers.serialize import load_model

__all__ = [
    "ELU",
    "Activation",
    "Add",
    "Average",
    "BatchNormalization",
    "Concatenate",
    "Dense",
    "Dot",
    "DotInteraction",
    "Dropout",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "Input",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Maximum",
    "Minimum",
    "Model",
    "Multiply",
    "Node",
    "PReLU",
    "RMSNormalization",
    "Rescaling",
    "Reshape",
    "Sequential",
    "Subtract",
    "SymbolicTensor",
    "UnitNormalization",
    "as_model",
    "initializers",
    "load_model",
    "quantize",
]
