"""Messages to customers and the send gate."""
