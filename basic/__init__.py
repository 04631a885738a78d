"""Large-batch contrastive pretraining in JAX.

Image and text towers are pure functions from rows to embeddings; objectives are
pure functions over all pairs of embeddings. That cut makes contrastive batches
of 65,536 and more exact on whatever hardware is there. Start with
`python -m basic.train --config configs/digits.py --workdir runs/digits`.
"""
