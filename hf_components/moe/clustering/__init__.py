"""Divide utterances among experts: cluster their embeddings, and make soft labels of a chosen entropy."""

from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.assignment import Clustering, labels_table
from hf_components.moe.clustering.choice import cluster
from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings, load_embeddings
from hf_components.moe.clustering.reassignment import reassign
from hf_components.moe.clustering.reduction import to_plane
