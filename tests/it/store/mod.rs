//! What holds the tenants apart when code is wrong.

mod accounts_file;
mod catalogue;
mod changes;
mod tenants_apart;
