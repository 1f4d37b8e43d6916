"""The statements of revision 0001, by area."""
