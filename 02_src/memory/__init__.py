"""What training takes, from the model's config and the data's lengths: bytes by what they hold,
peaks by stage, seconds a step. Nothing here loads weights.
"""
