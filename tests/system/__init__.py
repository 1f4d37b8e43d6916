"""The jobs of the system: their namespace, task queues and loops."""
