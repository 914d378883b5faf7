"""Tasks: what is predicted, what is lost by a wrong answer, and how it is measured."""
