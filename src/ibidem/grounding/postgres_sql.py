# ruff: noqa: S608 - names and numbers of this file alone are put into the SQL
"""The SQL of a store on PostgreSQL: roles, tables, policies, and the statements of a search.

Names are resolved by `search_path`, which holds the quoted schema; values are always parameters.
"""

VERSION = 1
"""Of the tables; it rises whenever an older store could not be read."""
READER = "ibidem_reader"
"""The role that may search; an application's role is made a member of it."""
GUARDED = ("documents", "chunks", "postings", "vectors")
"""The tables with row-level security."""

ROLES = f"""
CREATE ROLE {READER} NOLOGIN;
CREATE ROLE ibidem_writer LOGIN PASSWORD 'choose one';
CREATE ROLE ibidem_app LOGIN PASSWORD 'choose another' IN ROLE {READER};
"""
DATABASE = "CREATE DATABASE ibidem OWNER ibidem_writer ENCODING 'UTF8' TEMPLATE template0"
EXTENSION = "CREATE EXTENSION vector"
"""In the database. What an administrator does once: the roles, the database, the extension."""

TABLES = f"""
CREATE TABLE store (
    version int NOT NULL, key text NOT NULL, config text NOT NULL, encoder text, terms int NOT NULL,
    rules text NOT NULL, digest text NOT NULL, revision bigint NOT NULL, unpurged boolean NOT NULL,
    last_class int NOT NULL, last_document int NOT NULL, last_chunk int NOT NULL);
CREATE TABLE classes (class int PRIMARY KEY, readers text NOT NULL, denied text NOT NULL);
CREATE TABLE documents (
    document int PRIMARY KEY, class int NOT NULL, path text COLLATE "C" NOT NULL UNIQUE, content text NOT NULL,
    chunks int NOT NULL, words bigint NOT NULL);
CREATE TABLE chunks (
    document int NOT NULL, class int NOT NULL, chunk int PRIMARY KEY, id text COLLATE "C" NOT NULL, title text NOT NULL,
    start int NOT NULL, stop int NOT NULL, text text NOT NULL);
CREATE TABLE postings (
    document int NOT NULL, class int NOT NULL, chunk int NOT NULL, term bigint NOT NULL, frequency int NOT NULL,
    words int NOT NULL);
CREATE TABLE vectors (document int NOT NULL, class int NOT NULL, chunk int NOT NULL, vector vector NOT NULL);
CREATE TABLE forgotten (path text PRIMARY KEY);
CREATE TABLE quarantine (path text NOT NULL, file text NOT NULL);
CREATE INDEX documents_of_class ON documents (class);
CREATE INDEX chunks_by_id ON chunks (class, id);
CREATE INDEX postings_by_term ON postings (class, term);
CREATE INDEX vectors_of_class ON vectors (class);
CREATE FUNCTION every_document() RETURNS TABLE (document int, class int, path text) LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path FROM CURRENT AS 'SELECT document, class, path FROM documents';
REVOKE ALL ON FUNCTION every_document() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION every_document() TO {READER};
GRANT SELECT ON store, classes, {", ".join(GUARDED)} TO {READER};
"""

POLICIES = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY writes ON {table} TO CURRENT_USER USING (true) WITH CHECK (true);
CREATE POLICY reads ON {table} FOR SELECT TO PUBLIC USING (
    class = ANY ((SELECT string_to_array(current_setting('ibidem.classes', true), ','))::int[])
    AND ((SELECT current_setting('ibidem.documents', true)) = '*' OR document IN (
        SELECT unnest(string_to_array(nullif(current_setting('ibidem.documents', true), '*'), ',')::int[]))));
"""

UNSAMPLED = """
DO $$ DECLARE name record; BEGIN
    FOR name IN SELECT attrelid::regclass AS relation, attname
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind = 'r' AND attnum > 0
    LOOP EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', name.relation, name.attname); END LOOP;
END $$;
"""
"""Keep no samples of values: they would outlive their rows, and plans would depend on what others may read."""

PERMIT = "SELECT set_config('ibidem.classes', :classes, true), set_config('ibidem.documents', :documents, true)"

SCALE = 1 << 24
"""Contributions of terms are added as whole multiples of 1 / SCALE, 6e-8."""

_SCORED = f"""
WITH asked AS MATERIALIZED (
    SELECT term, times FROM unnest(:terms::bigint[], :times::int[]) AS asked (term, times)),
size AS MATERIALIZED (
    SELECT sum(chunks)::float8 AS chunks, sum(words)::float8 / sum(chunks)::float8 AS mean FROM documents),
found AS MATERIALIZED (
    SELECT document, chunk, term, frequency, words FROM postings WHERE term = ANY (:terms::bigint[])),
weights AS MATERIALIZED (
    SELECT term, times * ln(1 + (chunks - held + 0.5) / (held + 0.5)) AS weight
    FROM (SELECT term, count(*)::float8 AS held FROM found GROUP BY term) AS held JOIN asked USING (term), size),
scored AS MATERIALIZED (
    SELECT document, chunk, sum(({SCALE} * weight * frequency * ({{k1}} + 1) / (
        frequency + {{k1}} * (1 - {{b}} + {{b}} * words / mean)))::bigint) AS score
    FROM found JOIN weights USING (term), size GROUP BY document, chunk)"""
_BY_WORDS = f""",
best AS MATERIALIZED (
    SELECT document, chunk, path, score::float8 / {SCALE} AS score FROM scored JOIN documents USING (document)
    ORDER BY scored.score DESC, path, chunk LIMIT :k)"""
_BY_BOTH = """,
by_words AS MATERIALIZED (
    SELECT document, chunk, row_number() OVER (ORDER BY score DESC, path, chunk) AS rank
    FROM scored JOIN documents USING (document) ORDER BY rank LIMIT greatest(:k::int, {window})),
by_vector AS MATERIALIZED (
    SELECT document, chunk, row_number() OVER (ORDER BY distance, path, chunk) AS rank
    FROM (SELECT document, chunk, vector <=> :vector::vector AS distance FROM vectors) AS near
    JOIN documents USING (document) ORDER BY rank LIMIT greatest(:k::int, {window})),
best AS MATERIALIZED (
    SELECT document, chunk, path,
        coalesce(1::float8 / ({rrf} + by_words.rank), 0) + coalesce(1::float8 / ({rrf} + by_vector.rank), 0) AS score
    FROM by_words FULL JOIN by_vector USING (document, chunk) JOIN documents USING (document)
    ORDER BY score DESC, path, chunk LIMIT :k)"""
_SHOWN = """
SELECT revision, id, path, title, start, stop, text, score
FROM store LEFT JOIN (best JOIN chunks USING (document, chunk)) ON true ORDER BY score DESC, path, chunk"""


def search_statements(*, k1: float, b: float, rrf: int, window: int) -> tuple[str, str]:
    """Return the statements of a search by words, and by words and vectors.

    Each returns at least one row, for the revision of the store that it saw.
    """
    words = (_SCORED + _BY_WORDS + _SHOWN).format(k1=k1, b=b)
    return words, (_SCORED + _BY_BOTH + _SHOWN).format(k1=k1, b=b, rrf=rrf, window=window)


ONE_CHUNK = """
SELECT revision, id, path, title, start, stop, text, 0
FROM store LEFT JOIN (chunks JOIN documents USING (document)) ON id = :id"""

COUNTED = """
SELECT revision, term, held, (SELECT coalesce(sum(chunks), 0)::bigint FROM documents)
FROM store LEFT JOIN (
    SELECT term, count(*) AS held FROM postings WHERE term = ANY (:terms::bigint[]) GROUP BY term) AS counted ON true"""
"""How many chunks have each of some terms, and how many there are."""

ROLE = """
SELECT rolsuper OR rolbypassrls, EXISTS (
    SELECT FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND relkind = 'r'
        AND pg_has_role(current_user, relowner, 'MEMBER'))
FROM pg_roles WHERE rolname = current_user"""
"""Whether row-level security binds the role."""

POLICIES_IN_FORCE = """
SELECT count(*) FILTER (WHERE polname IN ('reads', 'writes') AND relrowsecurity AND relforcerowsecurity), count(*)
FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
WHERE relnamespace = to_regnamespace(:schema)"""

NEEDS = """
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector'),
    EXISTS (SELECT FROM pg_roles WHERE rolname = :reader), current_setting('server_encoding')"""
