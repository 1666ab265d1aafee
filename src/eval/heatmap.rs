//! Heat maps and contact sheets.
