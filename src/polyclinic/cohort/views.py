"""What follows from several files together, as views over what the files say each for itself.

A mask belongs to an image, a note to a patient that something else names, an image to the patient of the table's row that
names its file. Which file came first does not matter, and a file that comes later can settle what was open.
"""

VIEWS = """
-- A unit (a file, or files that are read together) as it was last read, while one of its files is still read as part of it;
-- what was half read when a process was killed was never finished, and is not here.
create temp view belongs as
    select root, uri, arg_max(unit, turn) as unit from stored_sources group by root, uri;

create temp table latest as
    select root, unit, arg_max(version, (turn, version)) as version from stored_sources semi join belongs using (root, unit)
    group by root, unit;

create temp table said as
    select stored_records.* from stored_records join latest using (root, unit, version)
    qualify row_number() over (partition by id order by stored_records.turn desc, root, uri) = 1;

-- A table's row that names an image's file says whose it is, where the file does not: a file name alone is a guess.
create temp table owners as
    select root, file, min(patient) as patient from said where file is not null
    group by root, file having count(distinct patient) = 1;

create temp view owned as
    select said.* replace (coalesce(owners.patient, said.patient) as patient) from said left join owners
    on said.stem is not null and coalesce(said.attributes->>'anonymous', 'true') = 'true'
    and owners.root = said.root and owners.file = parse_filename(said.uri);

-- The image of a mask has its name (or its accession number); of several, the one that shares most folders with it.
create temp view pairs as
    select mask.id as mask, image.id as image, image.patient, len(list_intersect(mask.telling, image.telling)) as shared
    from owned as mask join owned as image
    on mask.mask and not image.mask and mask.modality = image.modality and mask.root = image.root
    and mask.stem in (image.stem, image.accession);

create temp table links as
    select mask, arg_max(image, (shared, image)) as image, arg_max(patient, (shared, image)) as patient, count(*) as fitting
    from (select *, max(shared) over (partition by mask) as most from pairs) where shared = most group by mask;

-- Whose events the files tell.
create temp view lived as select * from stored_people semi join latest using (root, unit, version);

create temp table known as
    select distinct patient from owned where modality <> 'text' union select patient from lived;

create temp view linked as
    select owned.* replace (coalesce(links.patient, owned.patient) as patient), links.image, links.fitting, case
        when owned.mask and links.image is null then 'a mask with no image'
        when owned.mask and links.fitting > 1 then 'a mask that fits several images'
        when owned.modality = 'text' and exists (from known) and owned.patient not in (from known) then 'a note for an unknown patient'
    end as wrong
    from owned left join links on links.mask = owned.id;

-- A person's events, of however many files, are one record, which the event table is the source of.
create temp view histories as
    select md5(string_agg(digest, '' order by digest)) as id, patient, min(first) as time, 'table' as modality, 'EHR events' as kind,
        'events' as uri, '' as root, arg_max(site, turn) as site, null::varchar as device,
        json_object(
            'age', round(date_diff('day', min(born), coalesce(max(last), max(died))) / 365.25, 1), 'dead', max(died) is not null,
            'events', sum(events), 'sex', arg_max(sex, turn)
        )::varchar as attributes
    from lived group by patient;

create temp view events as
    select patient, time, code, numeric_value, text_value, ucum as unit, source_value, source_unit, encounter, site
    from stored_events semi join latest using (root, unit, version);

create temp view records as
    select id, patient, time, modality, kind, uri, root, site, device,
        case when image is null then attributes else '{"mask_of": "' || image || '", ' || substr(attributes, 2) end as attributes
    from linked where wrong is null
    union all from histories;

-- All that was ever read: a file that has changed is a new version, and what the old one said stays here.
create temp view versions as
    select id, patient, time, modality, kind, uri, stored_records.root, site, device, attributes, read_at,
        latest.version is not null as current
    from stored_records join (
        select root, unit, version, min(read_at) as read_at from stored_sources group by root, unit, version
    ) as read using (root, unit, version) left join latest using (root, unit, version);

create temp view rejected as
    select distinct uri, root, found, expected, remedy from stored_rejected join latest using (root, unit, version)
    union all select uri, root, wrong, case wrong
            when 'a mask with no image' then 'an image whose name is the mask''s'
            when 'a mask that fits several images' then 'one image of its name, or one in its folder'
            else 'a patient that a table, an image or a signal names' end,
        case wrong
            when 'a mask with no image' then 'give the image too'
            when 'a mask that fits several images' then 'give images and masks of one case a folder of their own'
            else 'check the note''s patient' end
    from linked where wrong is not null;
"""
