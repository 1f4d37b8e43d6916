"""Activities of authors of lifecycle workflows (docs/writing-a-workflow.md), one file for each other system."""
