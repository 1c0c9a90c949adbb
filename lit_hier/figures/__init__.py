"""Drawing: from arrays and tables to matplotlib figures."""
