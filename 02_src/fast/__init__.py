"""The fast forward: each prompt is computed once per pair, pairs are packed into rows, and the
output head sees completion positions only. Exact: tested against stock TRL.
"""
