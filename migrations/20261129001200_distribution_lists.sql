-- Distribution lists: addresses of an organization that stand for many, and who may send to them. The relays check
-- and expand them, so they are facts that are followed like accounts.

create table distribution_list (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    address         text collate "C" not null,
    domain          text collate "C" not null generated always as (split_part(address, '@', -1)) stored,
    name            text not null check (name <> '' and length(name) <= 64),
    status          text not null default 'enabled' check (status in ('enabled', 'disabled')),
    may_send        text not null check (may_send in ('inside', 'named', 'members', 'nobody')),
    -- Whether the relay sends to the members in place of the list; otherwise it checks and passes on.
    expands         boolean not null,
    -- Whether others than named senders may send to it although it is large.
    large_allowed   boolean not null default false,
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, address),
    foreign key (organization_id, domain) references mail_domain (organization_id, name)
);

-- In the order that an administrator gave them. An address of another list stands for that one's members.
create table list_member (
    organization_id uuid not null,
    list_id         uuid not null,
    address         text collate "C" not null,
    position        integer not null,
    primary key (organization_id, list_id, address),
    foreign key (organization_id, list_id) references distribution_list (organization_id, id) on delete cascade
);

create table list_sender (
    organization_id uuid not null,
    list_id         uuid not null,
    address         text collate "C" not null,
    primary key (organization_id, list_id, address),
    foreign key (organization_id, list_id) references distribution_list (organization_id, id) on delete cascade
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['distribution_list', 'list_member', 'list_sender'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I for select to outgate_relay using (true)', tenant_table);
        execute format('grant select on %I to outgate_web, outgate_relay', tenant_table);
        execute format('grant insert, delete on %I to outgate_web', tenant_table);
    end loop;
end
$$;
grant update (name, status, may_send, expands, large_allowed) on distribution_list to outgate_web;

-- A list with more recipients than this is large: only named senders may send to it.
alter table organization add column large_list integer not null default 100 check (large_list >= 0);
grant update (large_list) on organization to outgate_web;

-- An address is an account's or a list's, never both. Whoever gives one away holds the lock of the organization's
-- accounts, shared for an account and alone for a list, so that neither misses the other.
create function list_address_is_free() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if exists (select from public.mail_address held
                   where held.organization_id = new.organization_id and held.address = new.address) then
            raise unique_violation using message = 'the address of the list is an account''s',
                                         constraint = 'distribution_list_address_of_account';
        end if;
        return new;
    end
    $$;
create trigger list_address_is_free before insert on distribution_list
    for each row execute function list_address_is_free();

-- Once a statement: an import adds a hundred thousand.
create function account_addresses_are_free() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if exists (select from added join public.distribution_list list
                       on list.organization_id = added.organization_id and list.address = added.address) then
            raise unique_violation using message = 'an address of the account is a distribution list''s',
                                         constraint = 'mail_address_of_list';
        end if;
        return null;
    end
    $$;
create trigger account_addresses_are_free after insert on mail_address
    referencing new table as added for each statement execute function account_addresses_are_free();

alter table change_item drop constraint change_item_subject_check;
alter table change_item add constraint change_item_subject_check
    check (subject in ('organization', 'domain', 'account', 'gateway', 'credential', 'list'));
