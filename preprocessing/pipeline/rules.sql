-- SPDX-License-Identifier: Apache-2.0
-- The rules by which rows get splits and folds, or are left out: statements of DuckDB over one table of facts.
--
-- `facts` has a line for each row of the source, with these columns:
--   row (int64)         its number
--   label (int32)       its class, -1 without one
--   missing (bool)      it has no text
--   named (int8)        the split that the source names, no_split() for none, unlabelled() without a label
--   num_tokens (int32)
--   text_hash (uint64)  equal where the tokens are
--   priority (uint64)   text_hash mixed with the seed; it orders texts among which the seed chooses
--   group_hash (uint64) 0 for a row without a group
--   number, date (double)  with splits.time_column, one of them or none
--
-- Each statement makes a table or a view out of those before it, so any of them can be run by hand. The variables (as
-- drop_empty), the macros of split numbers, as train(), and the tables classes and shares are made by assign.py, which
-- also fills joined. Every order ends with a unique key, so the result depends on the rows alone.

-- name: empty_tables
create table joined (node ubigint, unit ubigint);
create table unit_splits (unit ubigint, split tinyint);
create table unit_folds (unit ubigint, fold smallint);

-- name: facts
create view stored_facts as from read_parquet(getvariable('fact_files'));

create view facts as
select stored_facts.* exclude (label), coalesce(classes.number, -1)::integer as label, num_tokens = 0 as is_empty
from stored_facts left join classes on stored_facts.label = classes.name;

-- name: labelled
-- Rows with a label. Equal texts with two labels contradict each other; those in two named splits leak. Rows of
-- training and rows without a named split are candidates for validation and test. A node is what must stay in one
-- split: the rows of a group, or equal texts without a group; nodes with a text in common are joined to a unit. To find
-- what occurs twice is the largest aggregation, so it holds nothing else.
create table repeated_hashes as
select text_hash from stored_facts where named <> unlabelled() group by text_hash having count(*) > 1;

create table repeated_texts as
select text_hash, count(*) as num_rows, min(label) <> max(label) as contradicts,
    max(greatest(named, train())) as last_split
from facts where named <> unlabelled() and text_hash in (from repeated_hashes) group by text_hash;

create view labelled as
with judged as (
    select facts.*, repeated_texts.text_hash is not null as is_repeated,
        not is_empty and coalesce(contradicts, false) as contradicts,
        not is_empty and coalesce(greatest(named, train()) < last_split, false) as leaks
    from facts left join repeated_texts using (text_hash) where named <> unlabelled()
),
kept as (
    select *, case
        when is_empty and getvariable('drop_empty') then 'empty'
        when contradicts and getvariable('drop_contradictions') then 'contradictions'
        when leaks and getvariable('drop_leaks') then 'leaks'
    end as dropped
    from judged
)
select *, greatest(named, train()) as split, if(group_hash = 0, text_hash, group_hash) as node,
    dropped is null and named <= train() as is_candidate
from kept;

-- name: grouped
-- A row without a named split goes where the source puts other rows of its group.
create table grouped as
with grouped_rows as (
    select *, if(group_hash = 0, no_split(), max(named) over (partition by group_hash)) as group_split from labelled
)
select * exclude (group_split) replace (
    if(named = no_split() and group_split > train(), group_split, split) as split,
    is_candidate and (group_split <= train() or named = train() and getvariable('by_time')) as is_candidate
)
from grouped_rows;

create or replace view labelled as from grouped;

-- name: labelled_counts
select count(*) as labelled, count_if(is_empty) as empty, count_if(missing) as missing_text,
    count_if(contradicts) as contradictions, count_if(leaks) as leaks, count_if(named = train()) as train,
    count_if(named = validation()) as validation, count_if(named = test()) as test
from labelled

-- name: group_sizes
select count(*) as groups, max(num_rows) as largest
from (select count(*) as num_rows from labelled where group_hash <> 0 group by group_hash)

-- name: groups_in_two_splits
with groups as (
    select group_hash, named, count(*) as num_rows
    from labelled where group_hash <> 0 and named <> no_split() group by all
)
select one.named as first, other.named as second, count(*) as groups, sum(one.num_rows)::bigint as first_rows,
    sum(other.num_rows)::bigint as second_rows
from groups as one join groups as other on one.group_hash = other.group_hash and one.named < other.named
group by all order by all

-- name: candidates
create view candidates as from labelled where is_candidate

-- name: fold_candidates
create or replace view candidates as from assigned where dropped is null and split in (train(), validation())

-- name: shared_texts
-- Each text that occurs in two nodes or more, with each of these.
with shared as (
    select text_hash from candidates where not is_empty group by text_hash having min(node) <> max(node)
)
select distinct node, text_hash from candidates where not is_empty and text_hash in (from shared)

-- name: units
create or replace view units as
select candidates.*, coalesce(joined.unit, node) as unit from candidates left join joined using (node)

-- name: texts
create table repeated_units as
select text_hash as unit, arg_min(label, row) as label, any_value(priority) as priority, count(*) as size
from candidates where is_repeated group by text_hash;

create view texts as
select text_hash as unit, label, priority, 1 as size from candidates where not is_repeated
union all
from repeated_units;

-- name: split_by_text
-- Of each label, test and then validation are filled to their shares of the rows, in the order of priority. Texts that
-- occur more often than the smallest share come last; texts that occur once fill the gaps. Only the first ranges of
-- priorities need to be sorted: those up to last_range, in which enough texts occur once for both.
create table bounds as
with ranges as (
    select label, priority >> 52 as range_number, count(*) as num_texts from texts where size = 1 group by all
),
totals as (
    select label, range_number, sum(num_texts) over (
        partition by label order by range_number rows unbounded preceding
    ) as total
    from ranges
)
select label, min(range_number) as last_range
from totals join shares using (label) where total >= test + validation group by label;

insert into unit_splits
with ordered as (
    select texts.*, test, validation, sum(size) over (
        partition by label order by size > smallest, priority rows unbounded preceding
    ) as last
    from texts join shares using (label) left join bounds using (label)
    where last_range is null or priority >> 52 <= last_range
),
fitted as (
    select *, case
        when last <= test then test()
        when last - size >= test and last <= test + validation then validation()
        else train()
    end as split
    from ordered
),
gaps as (
    select label, test - coalesce(sum(size) filter (split = test()), 0) as of_test,
        validation - coalesce(sum(size) filter (split = validation()), 0) as of_validation
    from fitted group by label, test, validation
),
single as (
    select unit, label, row_number() over (partition by label order by priority) as number
    from fitted where split = train() and size = 1 and label in (
        select label from gaps where of_test > 0 or of_validation > 0
    )
)
select unit, split from fitted where split <> train()
union all
select unit, if(number <= of_test, test(), validation())
from single join gaps using (label) where number <= of_test + of_validation;

-- name: split_by_time
-- The last rows are the test, those before them validation. A unit has the time of its last row; rows of one time are
-- cut by their mean rank; units without a time stay in training.
create table unit_times as
with timed as (select unit, max(coalesce(number, date)) over (partition by unit) as latest from units),
ranked as (
    select unit, latest,
        (rank() over (order by latest) + (count(*) over (partition by latest) - 1) / 2.0) / count(*) over () as late
    from timed where latest is not null
)
select distinct unit, latest, case
    when late > getvariable('end_of_validation') then test()
    when late > getvariable('end_of_train') then validation()
    else train()
end as split
from ranked;

insert into unit_splits select unit, split from unit_times;

-- name: time_counts
select count(number) as numbers, count(date) as dates, count_if(number is null and date is null) as without
from candidates

-- name: first_times
select split, min(latest)::bigint as time from unit_times where split <> train() group by split order by split

-- name: unit_labels
-- The rows of each label in each unit.
select unit, label, count(*) as num_rows from units group by unit, label

-- name: assigned
-- Of equal texts in one split, all rows but the first are duplicates.
create view placed as
select labelled.* exclude (split), coalesce(unit_splits.split, labelled.split) as split
from labelled left join joined using (node)
left join unit_splits on is_candidate and unit_splits.unit = coalesce(joined.unit, node);

create table repeated_rows as
select row, row_number() over in_order > 1 as is_duplicate,
    coalesce(lag(split) over in_order = split, false) as repeats_in_split,
    min(split) over equal_rows <> max(split) over equal_rows as is_parted
from placed where is_repeated and dropped is null and not is_empty
window in_order as (partition by text_hash order by split, row), equal_rows as (partition by text_hash);

create view assigned as
select placed.* replace (
    if(getvariable('drop_duplicates') and repeats_in_split, 'duplicates', dropped) as dropped
)
from placed left join repeated_rows using (row);

-- name: duplicate_counts
select count_if(is_duplicate) as normalised, count_if(is_parted) as across_splits from repeated_rows

-- name: unlabelled
-- Rows without a label leak if a measured row has their text or is of their group.
create table unlabelled_rows as
with measured as (
    select text_hash, group_hash from assigned where dropped is null and split >= getvariable('first_measured')
),
measured_texts as (select distinct text_hash, true as is_measured from measured),
measured_groups as (select distinct group_hash, true as is_measured from measured where group_hash <> 0),
judged as (
    select facts.*,
        not is_empty and measured_texts.is_measured is not null or measured_groups.is_measured is not null as leaks
    from facts left join measured_texts using (text_hash) left join measured_groups using (group_hash)
    where named = unlabelled()
),
kept as (
    select *, case
        when is_empty and getvariable('drop_empty') then 'empty'
        when leaks and getvariable('drop_leaks') then 'leaks'
    end as dropped
    from judged
),
compared as (
    select *, dropped is null and not is_empty and row_number() over (
        partition by text_hash, dropped is null and not is_empty order by row
    ) > 1 as is_duplicate
    from kept
)
select * replace (if(is_duplicate and getvariable('drop_duplicates'), 'duplicates', dropped) as dropped) from compared;

-- name: no_unlabelled
-- In its place where every row has a label.
create table unlabelled_rows (row bigint, label integer, dropped varchar)

-- name: unlabelled_counts
select count(*) as rows, count_if(is_empty) as empty, count_if(missing) as missing_text, count_if(leaks) as shared,
    count_if(is_duplicate) as duplicates
from unlabelled_rows

-- name: result
-- The decision on every row, in any order: its split, -1 if it is left out; its label; its fold, -1 without one; why it is left out.
select row, if(dropped is null, split, no_split()) as split, label, coalesce(fold, -1)::smallint as fold, dropped
from assigned left join joined using (node)
left join unit_folds on unit_folds.unit = coalesce(joined.unit, node)
    and dropped is null and split in (train(), validation())
union all
select row, if(dropped is null, unlabelled(), no_split()), label, -1::smallint, dropped from unlabelled_rows
