-- Prefect's own database, beside the ledgers'.
create database prefect;
