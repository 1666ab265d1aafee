mod cuda;
