"""`make mutate`: changes the code in small ways, and lists the changes that no quick test notices (mutmut)."""
