//! What holds the tenants apart when code is wrong.
//! Below the pages: on the roles that they connect as.

mod account_list;
mod accounts_file;
mod catalogue;
mod changes;
mod gateway_record;
mod organization_deleted;
mod taken_back;
mod tenants_apart;
mod undo;
