"""Figures, and interactive views for notebooks: what a figure shows, to be touched.

    from nextbert_lite import AttentionExplorer, show
    show(AttentionExplorer(tokens, torch.cat(inside.weights)), alt="Two layers of four heads on the course's sentence.")

Each view is an anywidget: one JavaScript file beside its Python module, the numbers in its state, nothing else. They
draw without a kernel and a network.
"""
