"""What follows from several files together, as views over what the files say each for itself.

A mask belongs to an image, a note to a patient that something else names, an image to the patient of the table's row that
names its file. Which file came first does not matter, and a file that comes later can settle what was open.
"""

VIEWS = r"""
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

create temp macro unended(name) as
    regexp_replace(name, '(?i)\.(nii|nii\.gz|dcm|dicom|png|jpe?g|tiff?|bmp|gif|svs|ndpi|scn|bif|mrxs|czi|mp4|avi|hea|edf|txt)$', '');

-- A slide's name in that of the features of its tiles, `slide7.h5`; null of anything else.
create temp macro slide_of(kind, uri) as
    case when kind = 'SLIDE features' then regexp_replace(parse_filename(uri), '(?i)\.(h5|hdf5)$', '') end;

-- A table's row that names an image's file says whose it is, where the file does not: a file name alone is a guess.
create temp table owners as
    select root, file, min(patient) as patient from said where file is not null
    group by root, file having count(distinct patient) = 1;

create temp table bare as
    select root, unended(file) as stem, min(patient) as patient from said where file is not null
    group by root, unended(file) having count(distinct patient) = 1;

create temp view owned as
    select said.* replace (coalesce(owners.patient, bare.patient, said.patient) as patient) from said left join owners
    on said.stem is not null and coalesce(said.attributes->>'anonymous', 'true') = 'true'
    and owners.root = said.root and owners.file = parse_filename(said.uri)
    left join bare on bare.root = said.root and bare.stem = slide_of(said.kind, said.uri);

-- Of two grids' corners, where along an axis of the one a place lies, in mm from its first voxel; and whether the other begins
-- before it ends and ends after it begins. A grid of one plane ends where it begins.
create temp macro along(grid, axis, place) as (
    list_dot_product(grid[3 * axis + 1:3 * axis + 3], place) - list_dot_product(grid[1:3], place)
    - list_dot_product(grid[3 * axis + 1:3 * axis + 3], grid[1:3]) + list_dot_product(grid[1:3], grid[1:3])
) / list_distance(grid[3 * axis + 1:3 * axis + 3], grid[1:3]);

create temp macro meets(grid, other, planes, near, axis) as along(grid, axis, other[1:3]) <=
    list_distance(grid[3 * axis + 1:3 * axis + 3], grid[1:3]) + near and along(
        grid, axis, case when string_split(planes, 'x')[axis] = '1' then other[1:3] else other[3 * axis + 1:3 * axis + 3] end
    ) >= -near;

-- The image of a mask has its name (or its accession number, or its series); of several, the one that shares most folders with it.
-- Of a volume in unbroken runs it is each run that the mask reaches.
create temp view named as
    select id, patient, modality, root, telling, uri, corners, near, unnest(list_distinct([stem, accession, series])) as name
    from owned where not mask;

create temp table called as
    select mask.id as mask, image.id as image, image.patient, len(list_intersect(mask.telling, image.telling)) as shared,
        mask.corners is not null and regexp_matches(image.uri, '[#&]run=\d+$') as run
    from owned as mask join named as image
    on mask.mask and mask.modality = image.modality and mask.root = image.root and mask.stem = image.name
    where not run or (
        meets(image.corners, mask.corners, mask.shape, image.near, 1) and meets(image.corners, mask.corners, mask.shape, image.near, 2)
        and meets(image.corners, mask.corners, mask.shape, image.near, 3)
    );

-- Where no image has its name, it is the one whose voxels lie where the mask's do, in its folder and not by name another case's.
create temp view placed as
    select id, patient, modality, root, mask, shape, corners, near, unnest(places) as place from owned where shape is not null;

create temp view overlaid as
    select distinct mask.id as mask, image.id as image, image.patient, 0 as shared, false as run
    from placed as mask join placed as image
    on mask.mask and not image.mask and mask.modality = image.modality and mask.root = image.root and mask.shape = image.shape
    and mask.place.folder = image.place.folder and list_distance(mask.corners, image.corners) <= least(mask.near, image.near)
    and (list_has_all(mask.place.words, image.place.words) or list_has_all(image.place.words, mask.place.words));

create temp view pairs as
    select * from called union all select * from overlaid where mask not in (select mask from called);

create temp table links as
    select mask, arg_max(image, (shared, image)) as image, arg_max(patient, (shared, image)) as patient, count(*) as fitting, run
    from (select *, max(shared) over (partition by mask) as most from pairs) where shared = most
    group by mask, run, case when run then image end;

-- A table's row that names a file is about it, and, where it names no patient, its patient's; one that was converted has another
-- ending. Features of a slide's tiles are about the slide that they are called as.
create temp view files as
    select *, unended(name) as stem from (
        select id, patient, root, modality, telling,
            parse_filename(regexp_replace(uri, '#(stack|item|group|frame|run)=\d+(&run=\d+)?$', '')) as name
        from owned where not mask and modality not in ('table', 'omics') and kind <> 'SLIDE features'
    );

create temp table subjects as
    select about, arg_max(file, (fit, file)) as file, arg_max(patient, (fit, file)) as patient, count(distinct patient) as fitting,
        count(*) as files
    from (select *, max(fit) over (partition by about) as most from (
        select about.id as about, files.id as file, files.patient,
            10000 * (about.named = files.name)::int + len(list_intersect(about.telling, files.telling)) as fit
        from (select *, slide_of(kind, uri) as slide, coalesce(about_file, file, slide) as named from owned) as about join files
            on about.root = files.root and unended(about.named) = files.stem and (about.slide is null or files.modality = 'slide')
    )) where fit = most group by about;

-- Whose events the files tell.
create temp view lived as select * from stored_people semi join latest using (root, unit, version);

create temp table known as
    select distinct patient from owned where modality <> 'text' and about_file is null union select patient from lived;

create temp view linked as
    select owned.* replace (
            coalesce(
                links.patient, case when owned.about_file is not null or (features and subjects.fitting = 1) then subjects.patient end,
                owned.patient
            ) as patient, case when links.run then md5(owned.id || links.image) else owned.id end as id
        ), links.image,
        case when subjects.files = 1 and (owned.about_file is not null or features or subjects.patient = owned.patient)
            then subjects.file end as about, case
        when owned.mask and links.image is null and not coalesce(owned.alone, false) then 'a mask with no image'
        when owned.mask and links.fitting > 1 then 'a mask that fits several images'
        when owned.about_file is not null and subjects.file is null then 'a row about a file that is not here'
        when owned.about_file is not null and subjects.fitting > 1 then 'a row about a file name that several patients have'
        when owned.modality = 'text' and owned.about_file is null and not coalesce(owned.alone, false)
            and exists (from known) and owned.patient not in (from known) then 'a note for an unknown patient'
    end as wrong
    from (select *, kind = 'SLIDE features' as features from owned) as owned
    left join links on links.mask = owned.id left join subjects on subjects.about = owned.id;

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
        case when image is not null then '{"mask_of": "' || image || '", ' || substr(attributes, 2)
            when about is not null then '{"about_record": "' || about || '", ' || substr(attributes, 2)
            else attributes end as attributes
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
            when 'a mask with no image' then 'an image whose name is the mask''s, or whose voxels lie where the mask''s do, in its folder'
            when 'a mask that fits several images' then 'one image of its name, or one of its voxels in its folder'
            when 'a row about a file that is not here' then 'the file that it names'
            when 'a row about a file name that several patients have' then 'one file of that name'
            else 'a patient that a table, an image or a signal names' end,
        case wrong
            when 'a mask with no image' then 'give the image too'
            when 'a mask that fits several images' then 'give images and masks of one case a folder of their own'
            when 'a row about a file that is not here' then 'ingest the file too'
            when 'a row about a file name that several patients have' then 'give the table a column of patients'
            else 'check the note''s patient' end
    from linked where wrong is not null;
"""
