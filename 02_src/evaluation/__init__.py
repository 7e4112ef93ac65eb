"""What an evaluation is made of: question sets, measured items, figures, comparisons, reports."""
