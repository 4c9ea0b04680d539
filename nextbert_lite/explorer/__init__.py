"""Interactive views for notebooks: what a figure shows, to be touched. They draw without a kernel and a network.

    from nextbert_lite.explorer import AttentionExplorer, show
    show(AttentionExplorer(tokens, torch.cat(inside.weights)), alt="Two layers of four heads on the course's sentence.")

Each view is an anywidget: one JavaScript file beside its Python module, the numbers in its state, nothing else.
"""

from nextbert_lite.explorer.attention import AttentionExplorer
from nextbert_lite.explorer.embeddings import EmbeddingExplorer
from nextbert_lite.explorer.masking import MaskingPlayground
from nextbert_lite.explorer.similarity import SimilarityMatrix
from nextbert_lite.explorer.view import View, show

__all__ = ["AttentionExplorer", "EmbeddingExplorer", "MaskingPlayground", "SimilarityMatrix", "View", "show"]
