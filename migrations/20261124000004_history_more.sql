-- The history of one thing, newest first, and of one subject in the Audit Log: both are asked for where
-- there are a hundred thousand changes. Ids of changes sort by the time at which they were made.
drop index change_item_by_subject;
create index change_item_by_subject on change_item (organization_id, subject, subject_key, change_id);
create index audit_entry_by_subject on audit_entry (organization_id, subject collate "C");
create index audit_entry_by_actor on audit_entry (organization_id, actor);
create index audit_entry_by_action on audit_entry (organization_id, action);
