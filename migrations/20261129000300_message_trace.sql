-- What happened to each message, written by relays in batches behind the answer to the client. Many lines stand in one
-- row, compressed, with a filter of senders, recipients and messages: a row for each line, with an index for each way to
-- search, would cost a message more than handing it over does.
create table message_trace (
    organization_id uuid not null references organization (id),
    -- Made by the relay when the chunk was closed (UUID of version 7): sorts by time.
    id              uuid not null,
    relay_id        uuid not null,
    -- Of the lines.
    first_at        timestamptz not null,
    last_at         timestamptz not null,
    lines           integer not null check (lines > 0),
    -- A Bloom filter, see has_trace_key.
    keys            bytea not null,
    content         bytea not null,
    -- Recipients, sizes and clients were left out: they are kept for a shorter time.
    without_details boolean not null default false,
    primary key (organization_id, id)
);
-- The filter stays in its row, where a search reads it; the lines do not, unless they are few.
alter table message_trace alter column keys set storage main;
alter table message_trace alter column content set storage external;
alter table message_trace set (toast_tuple_target = 8160);
-- Little mail makes many small chunks, which relays put together later.
create index message_trace_small on message_trace (organization_id, id) where lines < 250;
create index message_trace_last on message_trace (last_at);
create index message_trace_with_details on message_trace (last_at) where not without_details;

-- A line of many that could not be written down: the store was away for longer than a relay can keep lines.
create table trace_gap (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    relay_id        uuid not null,
    first_at        timestamptz not null,
    last_at         timestamptz not null,
    lines           bigint not null check (lines > 0),
    primary key (organization_id, id)
);

-- Whether a filter may have a key, of which the two halves of a hash are given: four places for each key.
create function has_trace_key(keys bytea, first bigint, step bigint) returns boolean
    language sql immutable parallel safe as $$
    select get_bit(keys, (first % (octet_length(keys) * 8))::integer) = 1
       and get_bit(keys, ((first + step) % (octet_length(keys) * 8))::integer) = 1
       and get_bit(keys, ((first + 2 * step) % (octet_length(keys) * 8))::integer) = 1
       and get_bit(keys, ((first + 3 * step) % (octet_length(keys) * 8))::integer) = 1
$$;

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['message_trace', 'trace_gap'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I for select to outgate_web using (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I to outgate_relay using (true) with check (true)', tenant_table);
        execute format('grant select on %I to outgate_web', tenant_table);
        execute format('grant select, insert, update, delete on %I to outgate_relay', tenant_table);
    end loop;
end
$$;
