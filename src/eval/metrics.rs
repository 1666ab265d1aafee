//! AUROC, AP, F1max, AUPRO.
