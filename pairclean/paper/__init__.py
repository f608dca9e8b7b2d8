"""L2RM in its own setting: region features, words, and the similarity networks SGR and SAF.

The rest of the package learns on frozen vectors of any encoder. This room has the whole retrieval model of Han et al.,
"Learning to rematch mismatched pairs for robust cross-modal retrieval" (CVPR 2024, arXiv 2403.05105), its data files,
its training loop and its evaluation, for those who want to reproduce the publication: docs/paper.md.
"""
