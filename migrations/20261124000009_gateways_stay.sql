-- Whoever points at a gateway locks its row, so that nobody removes it in the same moment. A row can
-- be locked by who may change any of its columns.
grant update (revision) on gateway to outgate_web;
