//! Private PostgreSQL.
